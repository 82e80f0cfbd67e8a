# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Answers from a file, and into it."""

import json

import pytest

from minigpt4.curation.ledger import LedgerImage
from minigpt4.curation.pipeline import StepItem
from minigpt4.endpoints.answers import (
    Answer,
    AnswerRecorder,
    RecordedAnswers,
    Request,
    message_digest,
)


def request(message, known=None):
    item = StepItem(LedgerImage(1, 'd', '/x', {}), message, {})
    return Request(item, message, known=known)


@pytest.fixture
def file(tmp_path):
    return str(tmp_path / 'answers.jsonl')


def answers(file, *messages, model='m'):
    backend = RecordedAnswers(file, model)
    return [a for _, a in backend.answers(iter(map(request, messages)))]


def test_recorded_answers_are_found_by_model_and_message(file):
    recorder = AnswerRecorder(file, 'm')
    recorder.add(request('Fix.\n\nÄ \ud83d dog'), Answer('Ä dog\n\n2', '', 3))
    recorder.add(request('b'), Answer('old'))
    recorder.close()
    recorder = AnswerRecorder(file, 'm')  # appends
    recorder.add(request('b'), Answer('new'))
    recorder.close()
    found = answers(file, 'Fix.\n\nÄ \ud83d dog', 'b')
    assert found == [Answer('Ä dog\n\n2'), Answer('new')]
    (missing,) = answers(file, 'b', model='other')
    assert missing.problem == (
        f"{file} has no answer of the model 'other' to this prompt and text; "
        'record one.'
    )


def test_known_answers_and_waits_pass(file):
    open(file, 'w').close()
    known = request('a', Answer('A'))
    done = RecordedAnswers(file, 'm').answers(iter([None, known]))
    assert list(done) == [None, (known, Answer('A'))]


@pytest.mark.parametrize(
    'line', ['{', '[]', '{"digest": "x"}', '{"digest": 1, "answer": "a"}', '7']
)
def test_a_wrong_line_is_named(file, line):
    good = json.dumps({'digest': message_digest('a', 'm'), 'answer': 'A'})
    with open(file, 'w') as stream:
        stream.write(f'{good}\n\n{line}\n')
    with pytest.raises(ValueError, match='line 3 is no recorded answer'):
        RecordedAnswers(file, 'm')


def test_an_empty_answer_is_a_failure(file):
    with open(file, 'w') as stream:
        json.dump({'digest': message_digest('a', 'm'), 'answer': ' '}, stream)
    assert answers(file, 'a') == [Answer('', 'the recorded answer is empty.')]
