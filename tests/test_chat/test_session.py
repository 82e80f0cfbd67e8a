# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A chat costs its own tokens, keeps what it spoke of, and leaks nothing."""

import json
import re
import threading

import pytest
import torch
from PIL import Image

from minigpt4.chat.session import ChatSession, build_prompt
from minigpt4.generation.engine import Engine
from minigpt4.generation.worker import EngineWorker
from minigpt4.images.read import SampleError
from minigpt4.prompts import (
    IMAGE_SLOT,
    Turn,
    get_template,
    render_chat,
    tokenize,
)

SYSTEM = (
    'Give the following image: <Img>ImageContent</Img>. You will be able to '
    'see the image once I provide it to you. Please answer my questions.'
)


def picture(shade):
    return Image.new('RGB', (40, 30), (shade, 120, 255 - shade))


def text_of(segments):
    return ''.join(s.text or '<ImageHere>' for s in segments)


@pytest.fixture
def tiny_model(tiny_model):
    """It says words alone: no bytes of half characters, and no ``#``."""
    decoder = tiny_model.decoder
    dull = [
        i
        for i in range(decoder.vocab_size)
        if i < 259 or '#' in decoder.tokenizer.decode(i)
    ]
    with torch.no_grad():
        decoder.llm.get_output_embeddings().weight[dull] = 0
    return tiny_model


@pytest.fixture
def session(tiny_model):
    return ChatSession(tiny_model, max_new_tokens=8)


# what the LLM reads


def test_official_chat_text():
    turns = [
        Turn('<ImageHere> What is it?', 'A cat.'),
        Turn('Why?', 'It purrs.'),
        Turn('<Img><ImageHere></Img> And this?'),
    ]
    want = (
        f'{SYSTEM}###Human: <Img><ImageHere></Img> What is it?###Assistant: '
        'A cat.###Human: Why?###Assistant: It purrs.###'
        'Human: <Img><ImageHere></Img> And this?###Assistant: '
    )
    template = get_template('vicuna_v0')
    assert text_of(render_chat(turns, template)) == want
    assert text_of(render_chat(turns, template, SYSTEM)) == want
    plain = text_of(render_chat(turns, template, ''))
    assert plain == '###' + want.removeprefix(f'{SYSTEM}###')
    other = text_of(render_chat(turns, template, 'Be brief.'))
    assert other == 'Be brief.' + plain


def test_ids_of_the_first_turn_are_the_official_ones(llama_tokenizer):
    """MiniGPT-4 ``get_context_emb``: BOS once, each text as one string."""
    row = tokenize(
        render_chat(
            [Turn('<ImageHere> What is it?')], get_template('vicuna_v0')
        ),
        llama_tokenizer,
    )
    before, after = (
        llama_tokenizer(text, add_special_tokens=False).input_ids
        for text in (
            f'{SYSTEM}###Human: <Img>',
            '</Img> What is it?###Assistant: ',
        )
    )
    assert row.ids == [1, *before, IMAGE_SLOT, *after]


def test_one_bos_for_vicuna_and_one_an_exchange_for_llama2(llama_tokenizer):
    turns = [Turn('<ImageHere> a', 'b'), Turn('c', 'd'), Turn('e')]
    row = tokenize(
        render_chat(turns, get_template('vicuna_v0')), llama_tokenizer
    )
    assert row.ids.count(1) == 1 and row.ids[0] == 1
    llama2 = get_template('llama2')
    assert text_of(render_chat(turns, llama2)) == (
        f'{SYSTEM}<s>[INST] <Img><ImageHere></Img> a [/INST] b</s>'
        '<s>[INST] c [/INST] d</s><s>[INST] e [/INST] '
    ), "the official chat, each answer closed as LLaMA-2's own chat does"
    # without a system line as in training: nothing between BOS and [INST]
    row = tokenize(render_chat(turns, llama2, ''), llama_tokenizer)
    assert row.ids.count(1) == 3
    assert not any(a == b == 1 for a, b in zip(row.ids, row.ids[1:]))


def test_an_answer_is_read_as_it_was_written(llama_tokenizer):
    """Tokenised anew with the text before it, its first ids were others."""
    template = get_template('vicuna_v0')
    prompt = tokenize(render_chat([Turn('a')], template), llama_tokenizer)
    said = llama_tokenizer('The cat.###', add_special_tokens=False).input_ids
    assert said[-2:] == [2277, 29937]
    turns = [Turn('a', 'The cat.'), Turn('b')]
    row = tokenize(render_chat(turns, template), llama_tokenizer)
    assert row.ids[: len(prompt.ids) + len(said)] == prompt.ids + said
    odd = (*said[:-2], 835)  # the other spelling of the stop string
    turns[0] = Turn('a', 'The cat.', odd)
    row = tokenize(render_chat(turns, template), llama_tokenizer)
    assert row.ids[: len(prompt.ids) + len(odd)] == [*prompt.ids, *odd]


def test_chat_ends_with_a_question():
    template = get_template('vicuna_v0')
    for turns in ([], [Turn('a', 'b')]):
        with pytest.raises(ValueError, match='ends with a question'):
            render_chat(turns, template)
    with pytest.raises(ValueError, match='turn 1 of 2 has no answer'):
        render_chat([Turn('a'), Turn('b')], template)


# what it costs


@pytest.mark.parametrize('settings', [{}, dict(do_sample=True, seed=3)])
def test_follow_up_turns_compute_their_own_tokens(tiny_model, settings):
    """Turns 2 and 3 cost what they add; the answers are the same without."""
    settings |= dict(max_new_tokens=12)
    session = ChatSession(tiny_model, **settings)
    without = ChatSession(Engine(tiny_model, stored_tokens=0), **settings)
    asked = [
        ('describe this image', [picture(0)]),
        ('what is the colour', []),
        ('<ImageHere> or <ImageHere>', [picture(90), picture(200)]),
    ]
    known = 0
    for question, images in asked:
        answer = session.answer(question, images)
        assert without.answer(question, images) == answer
        assert without.last.reused_tokens == 0
        last = session.last
        assert last.prompt_tokens == without.last.prompt_tokens
        # all but the very last token of the answer before, never read
        assert last.reused_tokens == known
        known = last.prompt_tokens + len(last.token_ids) - 1


def test_another_session_reuses_the_beginning(tiny_model):
    engine = Engine(tiny_model, slots=2)
    first = ChatSession(engine, max_new_tokens=4)
    first.answer('describe this image', [picture(0)])
    other = ChatSession(engine, max_new_tokens=4)
    other.answer('what is this', [picture(0)])
    image_end = other.last.prompt_tokens - 20
    assert other.last.reused_tokens > image_end / 2
    again = first.answer('what', [])
    fresh = ChatSession(tiny_model, max_new_tokens=4)
    fresh.answer('describe this image', [picture(0)])
    assert fresh.answer('what', []) == again


# how it goes


def test_text_only_turns_and_images_at_any_turn(session):
    assert session.answer('what is a circle').token_ids
    assert session.images == []
    session.answer('and this', [picture(1)])
    session.answer('so')
    session.answer('<ImageHere>, then <ImageHere>', [picture(2), picture(3)])
    assert len(session.images) == 3 and len(session.turns) == 4
    assert [t.question.count('<ImageHere>') for t in session.turns] == [
        0,
        1,
        0,
        2,
    ]
    assert session.notice is None


def test_stream_is_the_answer(session):
    pieces = list(session.ask('describe this', [picture(0)]))
    assert ''.join(pieces) == session.last.text == session.turns[0].answer
    assert session.last.finished


def force_tokens(engine, token_ids, monkeypatch):
    """Let an engine generate given token ids."""
    runner = engine.runner
    for method in (runner.prefill, runner.decode):

        def forced(requests, method=method):
            scores = method(requests)
            scores[:, next(token_ids, 5)] = 1e9
            return scores

        monkeypatch.setattr(runner, method.__name__, forced)


def test_no_stop_string_is_in_the_history(tiny_model, monkeypatch):
    """Nor does a ``###Human`` leak, however the tokenizer spells it."""
    tokenizer = tiny_model.decoder.tokenizer
    for end in ('a circle###', 'a circle ###'):
        said = tokenizer(end, add_special_tokens=False).input_ids
        more = tokenizer('Human: what', add_special_tokens=False).input_ids
        engine = Engine(tiny_model)
        force_tokens(engine, iter([*said, *more]), monkeypatch)
        session = ChatSession(engine)
        pieces = list(session.ask('what'))
        assert ''.join(pieces) == session.turns[0].answer == 'a circle'
        assert session.turns[0].answer_ids == tuple(said)
        assert session.last.finish_reason == 'stop'


def scripted(model, text, monkeypatch):
    """An engine whose first answer is a text, if it is not ended before."""
    engine, tokenizer = Engine(model), model.decoder.tokenizer
    script = iter(tokenizer(text, add_special_tokens=False).input_ids)
    force_tokens(engine, script, monkeypatch)
    return engine


@pytest.mark.parametrize(
    'text, settings, said',
    [
        ('a small circle', dict(stop=['circle']), 'a small'),
        # three bytes of four
        ('a \U0001f534', dict(max_new_tokens=-1), 'a'),
    ],
)
def test_an_answer_that_is_not_all_of_its_ids_is_spelled_anew(
    tiny_model, monkeypatch, text, settings, said
):
    if settings.get('max_new_tokens'):
        tokenizer = tiny_model.decoder.tokenizer
        ids = tokenizer(text, add_special_tokens=False).input_ids
        settings = dict(max_new_tokens=len(ids) - 1)
    session = ChatSession(scripted(tiny_model, text, monkeypatch))
    assert session.answer('what', **settings).text == said
    (turn,) = session.turns
    assert turn.answer == said and turn.answer_ids == ()


def test_settings_of_a_question_go_over_those_of_the_session(session):
    assert len(session.answer('what', max_new_tokens=3).token_ids) == 3
    assert len(session.answer('what').token_ids) == 8
    again = session.regenerate(max_new_tokens=2)
    assert ''.join(again) == session.last.text
    assert len(session.last.token_ids) == 2


def test_a_cancelled_answer_is_in_the_history_with_what_was_said(tiny_model):
    session = ChatSession(tiny_model, max_new_tokens=200)
    for number, _ in enumerate(session.ask('describe this', [picture(0)])):
        if number == 0:
            session.cancel()
    (turn,) = session.turns
    assert session.last.finish_reason == 'cancelled'
    assert turn.answer == session.last.text
    assert 0 < len(session.last.token_ids) < 100
    assert session.answer('and', max_new_tokens=3).token_ids
    assert session.last.reused_tokens > 0


def test_leaving_the_stream_ends_the_answer(tiny_model):
    session = ChatSession(tiny_model, max_new_tokens=200)
    stream = session.ask('describe', [picture(0)])
    next(stream)
    stream.close()
    assert len(session.turns) == 1
    session.answer('and', max_new_tokens=3)
    assert session.engine.running == 0


def test_regenerate_replaces_the_last_answer(session):
    session.answer('describe', [picture(0)])
    first = session.answer('what', do_sample=True, seed=1, temperature=9.0)
    ''.join(session.regenerate(do_sample=True, seed=2, temperature=9.0))
    assert len(session.turns) == 2 and len(session.images) == 1
    assert session.turns[1].question == 'what'
    assert session.turns[1].answer == session.last.text != first.text
    ''.join(session.regenerate(do_sample=True, seed=1, temperature=9.0))
    assert session.last.token_ids == first.token_ids
    assert session.last.reused_tokens == session.last.prompt_tokens - 1


def test_nothing_to_regenerate(session):
    with pytest.raises(ValueError, match='nothing was asked yet'):
        session.regenerate()


def test_a_failed_question_is_not_in_the_history(session, tmp_path):
    session.answer('what')
    with pytest.raises(SampleError, match='does not exist'):
        session.ask('this', [str(tmp_path / 'none.png')])
    with pytest.raises(ValueError, match='2 .* in the question but 1 images'):
        session.ask('<ImageHere> <ImageHere>', [picture(0)])
    with pytest.raises(ValueError, match='1 .* in the question but 0 images'):
        session.ask('<ImageHere>')
    with pytest.raises(ValueError, match='unknown generation setting size'):
        session.ask('what', size=3)
    session.engine.submit = lambda *_, **__: 1 / 0
    with pytest.raises(ZeroDivisionError):
        session.ask('and', [picture(0)])
    assert len(session.turns) == 1 and not session.images
    with pytest.raises(ValueError, match='unknown generation setting size'):
        ChatSession(session.model, size=3)


def test_an_error_while_answering_is_raised_and_not_kept(tiny_model):
    session = ChatSession(tiny_model, max_new_tokens=5)
    session.answer('what')
    old = session.turns[0]
    tiny_model.head.forward = lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        list(session.ask('this', [picture(0)]))
    assert session.turns == [old] and not session.images
    tokenizer = tiny_model.decoder.tokenizer
    session.engine.runner.prefill = lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        list(session.regenerate())
    assert session.turns == [old] and tokenizer


def test_reset_forgets(session):
    stream = session.ask('describe', [picture(0)], max_new_tokens=50)
    next(stream)
    answer = session.last
    session.reset()
    list(stream)
    assert answer.finish_reason == 'cancelled'
    assert session.turns == session.images == [] and session.last is None
    session.answer('what')
    assert len(session.turns) == 1


def test_images_stand_where_the_chat_says(tiny_model):
    """Without a place for them in front of the first question."""
    turns = [Turn('one', 'yes'), Turn('two')]
    images = [picture(0), picture(1)]
    prompt = build_prompt(tiny_model, turns, images, '')
    said = [Turn('<ImageHere><ImageHere> one', 'yes'), Turn('two')]
    assert prompt.row.ids == build_prompt(tiny_model, said, images, '').row.ids
    text = tiny_model.decoder.tokenizer.decode(
        [i for i in prompt.row.ids if i != IMAGE_SLOT]
    )
    assert text.index('Img') < text.index('one') and len(prompt.images) == 2
    with pytest.raises(ValueError, match='1 image slots in the chat but 2'):
        build_prompt(tiny_model, [Turn('<ImageHere> one')], images)
    with pytest.raises(ValueError, match='1 image slots in the chat but 0'):
        build_prompt(tiny_model, [Turn('<ImageHere> one')], [])


def test_system_line_of_session_model_template(tiny_model):
    def opening(model, system):
        row = build_prompt(model, [Turn('a')], [], system).row
        return model.decoder.tokenizer.decode(row.ids[1:])

    assert opening(tiny_model, None).startswith('Give the following')
    assert opening(tiny_model, '').startswith('###Human: a')
    assert opening(tiny_model, 'the red').startswith('the red###Human: a')
    tiny_model.system = ''
    assert opening(tiny_model, None).startswith('###Human: a')


def test_worker_and_model_serve_as_well(tiny_model):
    want = ChatSession(Engine(tiny_model)).answer('what', max_new_tokens=5)
    assert ChatSession(tiny_model).answer('what', max_new_tokens=5) == want
    worker = EngineWorker(Engine(tiny_model))
    try:
        session = ChatSession(worker)
        assert session.answer('what', max_new_tokens=5) == want
    finally:
        worker.close()


# the context


def long_chat(number, images=0):
    turns = [
        Turn(
            f'{"<ImageHere> " if i < images else ""}question {i}',
            'the small circle on a square ' * 3,
        )
        for i in range(number - 1)
    ]
    return [*turns, Turn('last')]


def test_overflow_drops_the_oldest_turns_and_says_so(tiny_model):
    """Never BOS, system line or images, as the official cut from the left."""
    images = [picture(i) for i in (1, 2)]
    whole = build_prompt(tiny_model, long_chat(8, 2), images, max_new_tokens=9)
    assert whole.notice is None and whole.dropped == 0
    prompt = build_prompt(
        tiny_model,
        long_chat(8, 2),
        images,
        max_context=whole.tokens - 100,
        max_new_tokens=9,
    )
    assert prompt.dropped == 3
    assert prompt.notice == (
        f'the context is full ({whole.tokens - 100} tokens): the 3 oldest '
        'turns were dropped, their images kept.'
    )
    ids, tokenizer = prompt.row.ids, tiny_model.decoder.tokenizer
    assert ids[0] == tokenizer.bos_token_id and len(prompt.images) == 2
    assert all(
        torch.equal(a, b)
        for a, b in zip(prompt.images, whole.images, strict=True)
    )
    text = ''.join(
        '@' if i == IMAGE_SLOT else tokenizer.decode([0, i])[5:]
        for i in ids[1:]
    )
    assert text.split('Human:')[0].strip().endswith('questions.###')
    first = text.split('Human:')[1]
    assert first.count('@') == 2 and 'question 3' in first
    assert prompt.tokens + 9 <= whole.tokens - 100
    assert prompt.tokens == len(ids) + 2 * (tiny_model.neck.num_tokens - 1)
    assert long_chat(8, 2)[0].question in text or 'question 0' not in text


def test_what_just_fits_is_not_dropped(tiny_model):
    turns = long_chat(4)
    tokens = build_prompt(tiny_model, turns, [], max_new_tokens=9).tokens
    for room, dropped in ((9, 0), (8, 1)):
        prompt = build_prompt(
            tiny_model,
            turns,
            [],
            max_context=tokens + room,
            max_new_tokens=9,
        )
        assert prompt.dropped == dropped
    assert 'the 1 oldest turn was dropped.' in prompt.notice


def test_a_question_that_cannot_fit_is_refused(tiny_model):
    with pytest.raises(
        ValueError,
        match=r'last question with 2 images takes \d+ tokens .* holds 60;',
    ):
        build_prompt(
            tiny_model,
            long_chat(3, 2),
            [picture(0), picture(1)],
            max_context=60,
            max_new_tokens=30,
        )
    with pytest.raises(ValueError, match='up to 3000, but .* holds 2048'):
        build_prompt(tiny_model, [Turn('a')], [], max_new_tokens=3000)


def test_a_session_goes_on_when_the_context_is_full(tiny_model):
    session = ChatSession(tiny_model, max_context=230, max_new_tokens=12)
    session.answer('describe this', [picture(0)])
    notices = []
    for i in range(8):
        session.answer(f'what is the colour of the circle {i}')
        notices.append(session.notice)
        assert session.last.prompt_tokens <= 230 - 12
    assert notices[0] is None and 'oldest' in notices[-1]
    assert 'images kept' in notices[-1]
    assert len(session.turns) == 9, 'the history itself stays'


# files


def test_saved_and_loaded(tiny_model, tmp_path):
    session = ChatSession(tiny_model, system='the red', max_new_tokens=6)
    path = tmp_path / 'image.png'
    picture(0).save(path)
    session.answer('describe', [path])
    session.answer('and', [picture(50)])
    file = tmp_path / 'chats' / 'chat.json'
    session.save(file)
    stored = json.loads(file.read_text())
    assert stored['images'][0] == str(path)
    assert stored['images'][1].startswith('data:image/png;base64,')
    loaded = ChatSession.load(file, tiny_model, max_new_tokens=6)
    assert loaded.system == 'the red'
    assert [(t.question, t.answer) for t in loaded.turns] == [
        (t.question, t.answer) for t in session.turns
    ]
    assert loaded.images[1].tobytes() == picture(50).tobytes()
    assert loaded.answer('what').token_ids and len(loaded.turns) == 3
    loaded.save(file)
    again = json.loads(file.read_text())
    assert again['images'] == stored['images']
    assert again['turns'][:2] == stored['turns']


TURN = '{"question": "<ImageHere> a", "answer": "b"}'


@pytest.mark.parametrize(
    'content, reason',
    [
        ('', 'not JSON'),
        ('[]', r'it is \[\], not an object'),
        ('null', 'it is null'),
        ('5', 'it is 5'),
        ('NaN', 'it is NaN'),
        ('"chat"', 'it is "chat"'),
        ('{"images": []}', 'it has no turns'),
        ('{"turns": 3}', 'turns is 3, not a list'),
        ('{"turns": []}', 'it has no images'),
        ('{"turns": [5], "images": []}', 'turn 1 is 5, not an object'),
        ('{"turns": [{}], "images": []}', 'turn 1 has no question'),
        (
            f'{{"turns": [{TURN}, {{"question": "a"}}], "images": []}}',
            'turn 2',
        ),
        (
            '{"turns": [{"role": "user", "content": "a"}], "images": []}',
            'turn 1 has no question',
        ),
        (
            '{"turns": [{"question": 5, "answer": "b"}], "images": []}',
            'the question of turn 1 is 5',
        ),
        (
            '{"turns": [{"question": "a", "answer": NaN}], "images": []}',
            'the answer of turn 1 is NaN',
        ),
        (
            '{"images": [], "turns": [{"question": "", "answer": "\\ud83d"}]}',
            'the answer of turn 1 contains half a character',
        ),
        ('{"turns": [], "images": {}}', 'images is'),
        ('{"turns": [], "images": [5]}', 'image 1 is 5'),
        (
            '{"turns": [], "images": ["data:x;base64,!"]}',
            'image 1 is not base64',
        ),
        (f'{{"turns": [{TURN}], "images": ["a", "b"]}}', '1 <ImageHere>, but'),
        ('{"turns": [], "images": [], "system": 5}', 'system is 5'),
        ('{"turns": [], "images": [], "version": 2}', 'its version is 2'),
        ('[' * 100_000, 'nested too deeply'),
        ('{"turns": ' + '9' * 9999 + '}', 'not JSON|turns is 9'),
        ('\x89PNG', 'not JSON'),
    ],
)
def test_what_is_no_chat_is_refused(tiny_model, tmp_path, content, reason):
    file = tmp_path / 'chat.json'
    file.write_text(content, 'latin-1')
    with pytest.raises(ValueError, match='is no saved chat') as error:
        ChatSession.load(file, tiny_model)
    assert re.search(reason, str(error.value))
    assert '\n' not in str(error.value)


def test_a_saved_chat_may_have_a_byte_order_mark_and_more_fields(
    tiny_model, tmp_path
):
    file = tmp_path / 'chat.json'
    content = '{"turns": [], "images": [], "system": null, "date": 5}'
    file.write_text(content, 'utf-8-sig')
    assert not ChatSession.load(file, tiny_model).turns


@pytest.mark.parametrize('through', ['model', 'engine', 'worker'])
def test_threads_that_ask_one_session_are_answered_in_turn(
    tiny_model, through
):
    """Each prompt has all turns before; the history has them all."""
    engine = dict(
        model=lambda: tiny_model,
        engine=lambda: Engine(tiny_model, 4),
        worker=lambda: EngineWorker(Engine(tiny_model, 4)),
    )[through]()
    session = ChatSession(engine, max_new_tokens=3, max_context=400)
    session.answer('describe', [picture(0)])
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
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    turns = [(turn.question, turn.answer) for turn in session.turns]
    assert len(turns) == 17 and sorted(turns[1:]) == sorted(answers)
    # what a session says that is asked the same in this order
    again = ChatSession(tiny_model, max_new_tokens=3, max_context=400)
    again.answer('describe', [picture(0)])
    for question, answer in turns[1:]:
        assert again.answer(question).text == answer
    if through == 'worker':
        engine.close()


def test_streams_of_one_session_do_not_wait_for_each_other(session):
    first = session.ask('describe', [picture(0)])
    second = session.ask('what')
    next(second)
    for stream in (first, second):
        for _ in stream:
            pass
    assert {turn.question[-4:] for turn in session.turns} == {'ribe', 'what'}
    assert len(session.images) == 1


def test_an_image_that_is_gone_is_said(tiny_model, tmp_path):
    file = tmp_path / 'chat.json'
    content = dict(
        system=None,
        turns=[dict(question='<Img><ImageHere></Img> a', answer='b')],
        images=[str(tmp_path / 'gone.png')],
    )
    file.write_text(json.dumps(content))
    with pytest.raises(SampleError, match='gone.png does not exist'):
        ChatSession.load(file, tiny_model)
