# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Chat sessions: reused tokens, history, cancellation and errors."""

import threading

import pytest
import torch
from PIL import Image
from tests.chat_families import (
    FAMILIES,
    family_tokenizer,
    reference_ids,
    to_messages,
)

from minigpt4.chat.session import ChatSession
from minigpt4.generation.engine import Engine
from minigpt4.generation.worker import EngineWorker
from minigpt4.images.read import SampleError
from minigpt4.prompts import Turn


def image(shade):
    return Image.new('RGB', (40, 30), (shade, 120, 255 - shade))


@pytest.fixture
def session(tiny_model):
    return ChatSession(tiny_model, max_new_tokens=8)


class ScriptedSampler:
    """Chooses given token ids, then raises an error."""

    is_greedy = False  # so the engine calls it for each token

    def __init__(self, token_ids):
        self.token_ids = iter(token_ids)

    def __call__(self, scores, token_ids):
        for token_id in self.token_ids:
            return token_id
        raise ZeroDivisionError


def stream_of_script(session, token_ids, **settings):
    """The stream of an answer with given token ids."""
    stream = session.ask('what', **settings)
    session.last.sampler = ScriptedSampler(token_ids)
    return stream


# reused tokens


@pytest.mark.parametrize('settings', [{}, dict(do_sample=True, seed=3)])
def test_follow_up_turns_compute_only_their_own_tokens(tiny_model, settings):
    """The answers are the same as without cached prefixes."""
    settings |= dict(max_new_tokens=12)
    session = ChatSession(tiny_model, **settings)
    uncached = ChatSession(Engine(tiny_model, stored_tokens=0), **settings)
    asked = [
        ('describe this image', [image(0)]),
        ('what is the colour', []),
        ('<ImageHere> or <ImageHere>', [image(90), image(200)]),
    ]
    cached = 0
    for question, images in asked:
        answer = session.answer(question, images)
        assert uncached.answer(question, images) == answer
        assert uncached.last.reused_tokens == 0
        last = session.last
        assert last.prompt_tokens == uncached.last.prompt_tokens
        # all but the last token of the previous answer, never computed
        assert last.reused_tokens == cached
        cached = last.prompt_tokens + len(last.token_ids) - 1


def test_another_session_reuses_the_common_prefix(tiny_model):
    engine = Engine(tiny_model, slots=2)
    first = ChatSession(engine, max_new_tokens=4)
    first.answer('describe this image', [image(0)])
    other = ChatSession(engine, max_new_tokens=4)
    other.answer('what is this', [image(0)])
    image_end = other.last.prompt_tokens - 20
    assert other.last.reused_tokens > image_end / 2
    again = first.answer('what', [])
    fresh = ChatSession(tiny_model, max_new_tokens=4)
    fresh.answer('describe this image', [image(0)])
    assert fresh.answer('what', []) == again


# questions, answers and the history


def test_any_turn_may_have_images(session):
    assert session.answer('what is a circle').token_ids
    assert session.images == []
    session.answer('and this', [image(1)])
    session.answer('so')
    session.answer('<ImageHere>, then <ImageHere>', [image(2), image(3)])
    assert len(session.images) == 3 and len(session.turns) == 4
    assert [t.question.count('<ImageHere>') for t in session.turns] == [
        0,
        1,
        0,
        2,
    ]
    assert session.notice is None


def test_streamed_pieces_join_to_the_answer(session):
    pieces = list(session.ask('describe this', [image(0)]))
    assert ''.join(pieces) == session.last.text == session.turns[0].answer
    assert session.last.finished


@pytest.mark.parametrize('text', ['a circle###', 'a circle ###'])
def test_stop_string_is_not_part_of_the_answer(session, text):
    """Nor is the next ``Human:``, however the tokenizer splits the text."""
    tokenizer = session.model.decoder.tokenizer
    ids = tokenizer(text, add_special_tokens=False).input_ids
    more = tokenizer('Human: what', add_special_tokens=False).input_ids
    stream = stream_of_script(session, [*ids, *more], max_new_tokens=50)
    assert ''.join(stream) == session.turns[0].answer == 'a circle'
    assert session.turns[0].answer_ids == tuple(ids)
    assert session.last.finish_reason == 'stop'


@pytest.mark.parametrize(
    'text, length, settings, answer',
    [
        ('a small circle', None, dict(stop=['circle']), 'a small'),
        ('a \U0001f534', -1, {}, 'a'),  # three bytes of four
    ],
)
def test_cut_answer_has_no_stored_token_ids(
    session, text, length, settings, answer
):
    """Its ids are not those of its text, so they must not be reused."""
    tokenizer = session.model.decoder.tokenizer
    ids = tokenizer(text, add_special_tokens=False).input_ids[:length]
    settings = dict(settings, max_new_tokens=len(ids))
    assert ''.join(stream_of_script(session, ids, **settings)) == answer
    (turn,) = session.turns
    assert turn.answer == answer and turn.answer_ids == ()


def test_question_settings_override_session_settings(session):
    assert len(session.answer('what', max_new_tokens=3).token_ids) == 3
    assert len(session.answer('what').token_ids) == 8
    again = session.regenerate(max_new_tokens=2)
    assert ''.join(again) == session.last.text
    assert len(session.last.token_ids) == 2


def test_cancelled_answer_is_stored_with_its_text_so_far(tiny_model):
    session = ChatSession(tiny_model, max_new_tokens=200)
    for number, _ in enumerate(session.ask('describe this', [image(0)])):
        if number == 0:
            session.cancel()
    (turn,) = session.turns
    assert session.last.finish_reason == 'cancelled'
    assert turn.answer == session.last.text
    assert 0 < len(session.last.token_ids) < 100
    assert session.answer('and', max_new_tokens=3).token_ids
    assert session.last.reused_tokens > 0


def test_closing_the_stream_cancels_the_answer(tiny_model):
    session = ChatSession(tiny_model, max_new_tokens=200)
    stream = session.ask('describe', [image(0)])
    next(stream)
    stream.close()
    assert len(session.turns) == 1
    session.answer('and', max_new_tokens=3)
    assert session.engine.running == 0


def test_regenerate_replaces_the_last_answer(session):
    session.answer('describe', [image(0)])
    first = session.answer('what', do_sample=True, seed=1, temperature=9.0)
    ''.join(session.regenerate(do_sample=True, seed=2, temperature=9.0))
    assert len(session.turns) == 2 and len(session.images) == 1
    assert session.turns[1].question == 'what'
    assert session.turns[1].answer == session.last.text != first.text
    ''.join(session.regenerate(do_sample=True, seed=1, temperature=9.0))
    assert session.last.token_ids == first.token_ids
    assert session.last.reused_tokens == session.last.prompt_tokens - 1


def test_regenerate_without_history_is_refused(session):
    with pytest.raises(ValueError, match='nothing was asked yet'):
        session.regenerate()


def test_refused_question_is_not_stored(session, tmp_path):
    session.answer('what')
    with pytest.raises(SampleError, match='does not exist'):
        session.ask('this', [str(tmp_path / 'none.png')])
    with pytest.raises(ValueError, match='2 .* in the question but 1 images'):
        session.ask('<ImageHere> <ImageHere>', [image(0)])
    with pytest.raises(ValueError, match='1 .* in the question but 0 images'):
        session.ask('<ImageHere>')
    with pytest.raises(ValueError, match='unknown generation setting size'):
        session.ask('what', size=3)
    assert len(session.turns) == 1 and not session.images
    with pytest.raises(ValueError, match='unknown generation setting size'):
        ChatSession(session.model, size=3)


def test_failed_answer_raises_and_is_not_stored(tiny_model):
    session = ChatSession(tiny_model, max_new_tokens=5)
    session.answer('what')
    old = session.turns[0]
    tiny_model.head.forward = lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        list(session.ask('this', [image(0)]))
    assert session.turns == [old] and not session.images
    stream = session.regenerate()
    session.last.sampler = ScriptedSampler([])
    with pytest.raises(ZeroDivisionError):
        list(stream)
    assert session.turns == [old]


def test_reset_cancels_and_clears_the_history(session):
    stream = session.ask('describe', [image(0)], max_new_tokens=50)
    next(stream)
    answer = session.last
    session.reset()
    list(stream)
    assert answer.finish_reason == 'cancelled'
    assert session.turns == session.images == [] and session.last is None
    session.answer('what')
    assert len(session.turns) == 1


def test_model_engine_and_worker_give_the_same_answer(tiny_model):
    expected = ChatSession(Engine(tiny_model)).answer('what', max_new_tokens=5)
    assert ChatSession(tiny_model).answer('what', max_new_tokens=5) == expected
    worker = EngineWorker(Engine(tiny_model))
    try:
        session = ChatSession(worker)
        assert session.answer('what', max_new_tokens=5) == expected
    finally:
        worker.close()


# the context limit


def test_session_continues_when_the_context_is_full(tiny_model):
    session = ChatSession(tiny_model, max_context=230, max_new_tokens=12)
    session.answer('describe this', [image(0)])
    notices = []
    for i in range(8):
        session.answer(f'what is the colour of the circle {i}')
        notices.append(session.notice)
        assert session.last.prompt_tokens <= 230 - 12
    assert notices[0] is None and 'oldest' in notices[-1]
    assert 'images kept' in notices[-1]
    assert len(session.turns) == 9, 'the history itself is complete'


@pytest.mark.parametrize('through', ['model', 'engine', 'worker'])
def test_concurrent_answers_of_one_session_are_serialised(tiny_model, through):
    """Each prompt contains all turns before it."""
    engine = dict(
        model=lambda: tiny_model,
        engine=lambda: Engine(tiny_model, 4),
        worker=lambda: EngineWorker(Engine(tiny_model, 4)),
    )[through]()
    session = ChatSession(engine, max_new_tokens=3, max_context=400)
    session.answer('describe', [image(0)])
    answers = []

    def ask(name):
        for i in range(4):
            question = f'{name}{i}'
            answer = session.answer(question)
            answers.append((question, answer.text))

    threads = [threading.Thread(target=ask, args=(n,)) for n in 'abcd']
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert not any(thread.is_alive() for thread in threads)
    turns = [(turn.question, turn.answer) for turn in session.turns]
    assert len(turns) == 17 and sorted(turns[1:]) == sorted(answers)
    # the same answers as for the same questions in this order
    again = ChatSession(tiny_model, max_new_tokens=3, max_context=400)
    again.answer('describe', [image(0)])
    for question, answer in turns[1:]:
        assert again.answer(question).text == answer
    if through == 'worker':
        engine.close()


def test_concurrent_streams_of_one_session_do_not_wait(session):
    first = session.ask('describe', [image(0)])
    second = session.ask('what')
    next(second)
    for stream in (first, second):
        for _ in stream:
            pass
    assert {turn.question[-4:] for turn in session.turns} == {'ribe', 'what'}
    assert len(session.images) == 1


# chat templates


@pytest.mark.parametrize('family', FAMILIES)
def test_chat_answers_as_transformers_with_its_chat_template(
    build_chat, family
):
    """Greedy, over two turns, in the engine with its cached prefixes."""
    model = build_chat(family)
    tokenizer = family_tokenizer(family)
    session = ChatSession(model, max_new_tokens=6)
    turns = []
    for question in ('What is in this image?', 'How many?'):
        answer = session.answer(question)
        turns.append(Turn(question))
        ids = reference_ids(tokenizer, to_messages(turns))
        if len(turns) == 1:  # later, the known ids of answers are used
            assert session.last.prompt_tokens == len(ids)
            output = model.decoder.llm.generate(
                torch.tensor([ids]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                do_sample=False,
                max_new_tokens=6,
                eos_token_id=list(model.stop_ids),
                pad_token_id=0,
            )
            assert answer.token_ids == output[0, len(ids) :].tolist()
        turns[-1] = session.turns[-1]
    assert session.last.reused_tokens > 0 or family == 'qwen3'


@pytest.mark.parametrize('family', FAMILIES)
def test_chat_answer_ends_where_another_message_begins(build_chat, family):
    """Neither its special tokens nor its role are in the answer."""
    model = build_chat(family)
    tokenizer, template = model.decoder.tokenizer, model.template
    session = ChatSession(model, max_new_tokens=50)
    word = tokenizer('a circle', add_special_tokens=False).input_ids
    opening = tokenizer('[INST] user what', add_special_tokens=False).input_ids
    scripts = [[*word, token, *opening] for token in model.stop_ids]
    if template.stop:
        scripts.append([*word, *opening])
    for script in scripts:
        stream = stream_of_script(session, script)
        assert ''.join(stream) == session.turns[-1].answer == 'a circle'
        assert session.last.finish_reason == 'stop'
        session.reset()


def test_end_symbol_belongs_to_the_stored_ids_of_a_chat_answer(build_chat):
    """So that a later prompt has them, and its prefix is cached."""
    model = build_chat('smollm2')
    tokenizer = model.decoder.tokenizer
    session = ChatSession(model, max_new_tokens=50)
    ids = tokenizer('a circle', add_special_tokens=False).input_ids
    start, end = tokenizer.convert_tokens_to_ids(
        ['<|im_start|>', '<|im_end|>']
    )
    for token in (end, start):
        list(stream_of_script(session, [*ids, token]))
        assert session.turns[-1].answer_ids == (*ids, end)
    first = session.last.prompt_tokens
    session.answer('so', max_new_tokens=1)
    assert session.last.reused_tokens == first + len(ids)


def test_system_message_of_a_chat(build_chat):
    model = build_chat('smollm2', system='Be brief.')

    def opening(system):
        session = ChatSession(model, system=system, max_new_tokens=1)
        session.answer('what')
        return model.decoder.tokenizer.decode(session.last.cache_key[:-1])

    start = '<|im_start|>system\n'
    assert opening(None).startswith(start + 'Be brief.<|im_end|>')
    assert opening('Hi').startswith(start + 'Hi<|im_end|>')
    assert opening('').startswith(start + '<|im_end|>')
    model.system = None
    assert opening(None).startswith(start + model.template.system)
