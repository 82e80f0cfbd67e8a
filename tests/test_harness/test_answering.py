# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Dialogues and scores with one engine."""

import threading

import pytest
from mmengine.structures import BaseDataElement
from PIL import Image

import minigpt4
from minigpt4.captioning.batch import ModelFailureError
from minigpt4.generation import api
from minigpt4.generation.engine import Engine
from minigpt4.generation.model_runner import ModelRunner
from minigpt4.harness.answer_log import AnswerLog
from minigpt4.harness.answering import (
    Prompt,
    ScoreTask,
    answer_dialogues,
    make_prompt,
    score_tasks,
)
from minigpt4.harness.prompts import Question
from minigpt4.images.read import load_image
from minigpt4.prompts import TokenizedPrompt, Turn

SETTINGS = dict(max_new_tokens=6, do_sample=False)


@pytest.fixture
def model(tiny_model):
    return tiny_model.eval()


def picture(seed: int) -> Image.Image:
    return Image.new('RGB', (28, 28), (40 * seed % 256, 90, 7 * seed % 256))


def question(seed: int, text: str) -> Question:
    return Question([Turn(text)], [picture(seed)])


def expected(model, *questions: Question) -> list[str]:
    """The answers of our own engine."""
    samples = [
        BaseDataElement(
            images=[load_image(i, model.image_size) for i in q.images],
            turns=q.turns,
        )
        for q in questions
    ]
    return [a.text for a in api.generate(model, samples, **SETTINGS)]


def answers(model, dialogues, slots=3, workers=2, log=None):
    """Results and errors by the number of the dialogue."""
    engine = Engine(model, slots=slots)
    log = AnswerLog(None, model) if log is None else log
    outcomes = list(answer_dialogues(engine, dialogues, workers, log))
    assert engine.running == engine.waiting == 0
    found = {o.number: o.error or o.result for o in outcomes}
    assert len(found) == len(outcomes)
    return found


def one_round(model, asked: Question, settings=SETTINGS):
    return (yield make_prompt(model, asked, settings))


def test_answers_are_those_of_our_own_engine(model):
    asked = [question(i, 'what is the colour') for i in range(12)] + [
        Question([Turn('describe this')])
    ]
    two = Question(
        [Turn('<ImageHere> is a <ImageHere>')], [picture(1), picture(2)]
    )
    asked.append(two)
    found = answers(model, (one_round(model, q) for q in asked))
    assert [found[i] for i in range(14)] == expected(model, *asked)


@pytest.mark.parametrize(
    'settings',
    [
        dict(num_beams=2, max_new_tokens=5),
        dict(do_sample=True, seed=4, max_new_tokens=8, temperature=2.0),
        dict(stop=['a'], max_new_tokens=20),
    ],
)
def test_settings_reach_the_engine(model, settings):
    asked = question(2, 'what is this')
    found = answers(model, [one_round(model, asked, settings)])
    sample = BaseDataElement(
        images=[load_image(asked.images[0], model.image_size)],
        turns=asked.turns,
    )
    (answer,) = api.generate(model, [sample], **settings)
    assert found == {0: answer.text}


def test_the_failure_of_one_dialogue_is_its_outcome(model, tmp_path):
    file = tmp_path / 'broken.jpg'
    file.write_bytes(b'no image')

    def raises():
        raise KeyError('in the code of a task')
        yield

    good = [question(i, 'what') for i in range(2)]
    found = answers(
        model,
        [
            one_round(model, good[0]),
            one_round(model, Question([Turn('what')], [str(file)])),
            raises(),
            one_round(model, Question([Turn('the red ' * 2000)])),
            one_round(
                model, good[1], dict(min_new_tokens=2, max_new_tokens=1)
            ),
            one_round(model, good[1]),
        ],
    )
    assert [found[0], found[5]] == expected(model, *good)
    assert 'broken.jpg' in str(found[1])
    assert isinstance(found[2], KeyError)
    assert 'fills the context' in str(found[3])
    assert 'min_new_tokens is 2' in str(found[4])


def test_a_dialogue_has_several_rounds(model):
    def rounds(seed: int):
        first = yield make_prompt(model, question(seed, 'what'), SETTINGS)
        turns = [Turn('<ImageHere> what', first), Turn('is this a circle')]
        asked = Question(turns, [picture(seed)])
        second = yield make_prompt(model, asked, SETTINGS)
        return [first, second]

    found = answers(model, (rounds(i) for i in range(5)), slots=2, workers=1)
    for i in range(5):
        first, second = found[i]
        turns = [Turn('<ImageHere> what', first), Turn('is this a circle')]
        assert [first] == expected(model, question(i, 'what'))
        assert [second] == expected(model, Question(turns, [picture(i)]))


def test_an_interrupted_run_continues(model, tmp_path):
    asked = [question(i, 'what') for i in range(9)]

    def dialogues(stop_at=None):
        for i, q in enumerate(asked):
            if i == stop_at:
                raise KeyboardInterrupt
            yield one_round(model, q)

    with pytest.raises(KeyboardInterrupt):
        log = AnswerLog(tmp_path, model)
        answers(model, dialogues(8), slots=1, workers=1, log=log)
    known = len(log)
    assert known
    (file,) = tmp_path.iterdir()
    file.write_text(file.read_text() + '{"key": "half of a row')

    log = AnswerLog(tmp_path, model, rank=0)
    assert len(log) == known
    engine = Engine(model, slots=2)
    found = {
        outcome.number: outcome.result
        for outcome in answer_dialogues(engine, dialogues(), 1, log)
    }
    assert [found[i] for i in range(9)] == expected(model, *asked)
    assert engine.runner.stats.images == 9 - known
    # other ranks read it too
    assert len(AnswerLog(tmp_path, model, rank=1)) == 9
    # sampled answers are drawn again
    sampled = dict(max_new_tokens=2, do_sample=True, seed=0)
    answers(model, [one_round(model, asked[0], sampled)], log=log)
    assert len(log) == 9


def test_answers_are_of_one_question_and_its_settings(model, tmp_path):
    log = AnswerLog(tmp_path, model)
    asked = [question(i, 'what') for i in range(2)]
    short = dict(max_new_tokens=2, do_sample=False)
    first = answers(model, [one_round(model, asked[0])], log=log)
    found = answers(
        model,
        [
            one_round(model, asked[0]),
            one_round(model, asked[0], short),
            one_round(model, asked[1]),
        ],
        log=log,
    )
    cut = answers(model, [one_round(model, asked[0], short)])
    assert found[0] == first[0] and found[1] == cut[0]
    assert [found[0], found[2]] == expected(model, *asked)
    assert len(log) == 3  # one for each question and settings


def test_answers_are_of_one_model(model, build_tiny, tmp_path):
    log = AnswerLog(tmp_path, model)
    prompt = make_prompt(model, question(0, 'what'), SETTINGS)
    key = log.key('answer', prompt.tokenized, prompt.images, SETTINGS)
    other = build_tiny()
    next(other.head.parameters()).data += 1
    log = AnswerLog(tmp_path, other)
    assert key != log.key('answer', prompt.tokenized, prompt.images, SETTINGS)
    (tmp_path / 'answers_3.jsonl').write_text('{"a": 1}\n')
    with pytest.raises(ValueError, match='answers_3.jsonl: line 1 is not an'):
        AnswerLog(tmp_path, model)


def test_a_run_ends_if_the_model_always_fails(model, monkeypatch):
    def fail(*args):
        raise RuntimeError('out of memory')

    monkeypatch.setattr(model, 'embed_images', fail, raising=False)
    monkeypatch.setattr(
        'minigpt4.generation.model_runner.ModelRunner.encode_images', fail
    )
    asked = (one_round(model, question(i, 'what')) for i in range(100))
    with pytest.raises(ModelFailureError, match='out of memory.*answers=DIR'):
        answers(model, asked)


def test_failures_that_are_not_in_succession_do_not_end_a_run(
    model, monkeypatch
):
    number = 0
    encode = ModelRunner.encode_images

    def sometimes(*args):
        nonlocal number
        number += 1
        if number % 10:
            raise RuntimeError('out of memory')
        return encode(*args)

    monkeypatch.setattr(ModelRunner, 'encode_images', sometimes)
    asked = (one_round(model, question(i, 'what')) for i in range(40))
    found = answers(model, asked, slots=1)
    errors = [f for f in found.values() if isinstance(f, RuntimeError)]
    assert len(found) == 40 and len(errors) == 36


class Scores:
    """Instead of an engine: a score by the length; errors are raised."""

    def __init__(self):
        self.asked = []

    def score_answers(self, tokenized, images, candidates):
        self.asked.append(candidates)
        if isinstance(candidates[0], Exception):
            raise candidates[0]
        return [(-len(text), len(text), False) for text in candidates]


def score(engine, log, *candidates):
    prompt = Prompt(TokenizedPrompt([1], [False]), [], {})
    tasks = [lambda c=c: ScoreTask(prompt, c) for c in candidates]
    return list(score_tasks(engine, tasks, 1, log))


def test_stored_scores_belong_to_their_answers(model, tmp_path):
    engine, log = Scores(), AnswerLog(tmp_path, model)
    outcomes = score(engine, log, ['aa', 'b'], ['b', 'aa'], ['aa', 'b', 'ccc'])
    two, one, three = [-2, 2, False], [-1, 1, False], [-3, 3, False]
    assert [outcome.result for outcome in outcomes] == [
        [two, one],
        [one, two],
        [two, one, three],
    ]
    # other answers are scored anew
    assert engine.asked == [['aa', 'b'], ['aa', 'b', 'ccc']]


def test_only_failures_of_the_model_end_scores(model):
    log = AnswerLog(None, model)
    error = RuntimeError('out of memory')
    apart = [*[[error]] * 15, ['a']] * 2
    assert len(score(Scores(), log, *apart)) == 32
    wrong = [[ValueError('too long')]] * 40
    assert len(score(Scores(), log, *wrong)) == 40
    with pytest.raises(ModelFailureError, match='at 16 questions'):
        score(Scores(), log, *[[error]] * 16)


def test_long_answers_end_with_the_context(model):
    asked = question(0, 'what')
    prompt = make_prompt(model, asked, dict(max_new_tokens=10**6))
    length = len(prompt.tokenized.ids) + model.num_image_tokens - 1
    assert length + prompt.settings['max_new_tokens'] == model.context_length


def test_scores_are_those_of_rank(model):
    asked = [question(i, 'what is this') for i in range(4)]
    candidates = ['red', 'a large green square', 'blue circle']

    def load(q):
        prompt = make_prompt(model, q, {})
        return lambda: ScoreTask(prompt, candidates)

    def fail():
        raise OSError('no such document')

    tasks = [load(asked[0]), fail, *map(load, asked[1:])]
    engine = Engine(model, slots=1)
    log = AnswerLog(None, model)
    outcomes = list(score_tasks(engine, tasks, 2, log))
    assert [o.number for o in outcomes] == [0, 1, 2, 3, 4]
    assert str(outcomes[1].error) == 'no such document'
    for outcome, q in zip(outcomes[:1] + outcomes[2:], asked, strict=True):
        sample = BaseDataElement(
            images=[load_image(i, model.image_size) for i in q.images],
            turns=q.turns,
        )
        ranked = api.rank(model, sample, candidates)
        means = [mean for mean, _, _ in outcome.result]
        assert means == pytest.approx(ranked, abs=1e-5)


def test_a_greedy_answer_is_greedy():
    model = minigpt4.get_model('minigpt-4_nano_caption', device='cpu').eval()
    prompt = make_prompt(model, Question([Turn('')], [picture(3)]), {})
    engine = Engine(model, slots=1)
    answer = engine.submit(prompt.tokenized, prompt.images).answer()
    assert answer.finished
    other = answer.text.replace('.', ' a.', 1)
    scores = engine.score_answers(
        prompt.tokenized, prompt.images, [answer.text, other]
    )
    assert [score.is_greedy for score in scores] == [True, False]
    assert scores[0].num_tokens > 2
    assert scores[0].log_likelihood == pytest.approx(
        scores[0].mean * scores[0].num_tokens
    )


def test_documents_are_read_in_threads(model):
    names = set()

    def dialogue():
        names.add(threading.current_thread().name)
        return 'done'
        yield

    assert answers(model, [dialogue()]) == {0: 'done'}
    assert threading.current_thread().name not in names
