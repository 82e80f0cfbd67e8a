# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""An answer is used again only for what the model would receive again."""

import json

import pytest
import torch

from minigpt4.harness.answer_log import AnswerLog, model_digest
from minigpt4.prompts import TokenizedPrompt

PROMPT = TokenizedPrompt([1, 5, 6], [False] * 3)
IMAGE = torch.zeros(3, 4, 4, dtype=torch.uint8)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return torch.nn.Linear(2, 2)


@pytest.fixture
def log(tmp_path, model):
    log = AnswerLog(tmp_path / 'answers', model)
    yield log
    log.close()


def test_the_key_depends_on_all_that_the_model_receives(log, tmp_path, model):
    first = log.key('answer', PROMPT, [IMAGE], dict(num_beams=1))
    same = TokenizedPrompt([1, 5, 6], [False] * 3)
    assert log.key('answer', same, [IMAGE.clone()], dict(num_beams=1)) == first
    with torch.no_grad():
        model.bias[0] += 1
    other = AnswerLog(tmp_path / 'other', model)
    other_prompt = TokenizedPrompt([1, 5, 7], [False] * 3)
    keys = [
        first,
        log.key('score', PROMPT, [IMAGE], dict(num_beams=1)),
        log.key('answer', other_prompt, [IMAGE], dict(num_beams=1)),
        log.key('answer', PROMPT, [IMAGE + 1], dict(num_beams=1)),
        log.key('answer', PROMPT, [IMAGE, IMAGE], dict(num_beams=1)),
        log.key('answer', PROMPT, [IMAGE], dict(num_beams=2)),
        other.key('answer', PROMPT, [IMAGE], dict(num_beams=1)),
    ]
    other.close()
    assert len(set(keys)) == len(keys)


def test_the_digest_of_a_model_depends_on_names_and_values(model):
    equal = torch.nn.Linear(2, 2)
    equal.load_state_dict(model.state_dict())
    assert model_digest(equal) == model_digest(model)
    with torch.no_grad():
        equal.weight[1, 1] += 0.001
    assert model_digest(equal) != model_digest(model)
    named = torch.nn.ModuleDict(dict(other=model))
    assert model_digest(named) != model_digest(model)


def test_answers_are_on_disk_before_the_next_one(log, tmp_path, model):
    log.add('a', 'one')
    log.add('', 'no key, so not stored')
    file = tmp_path / 'answers' / 'answers_0.jsonl'
    assert json.loads(file.read_text()) == dict(key='a', answer='one')
    assert log.get('a') == 'one' and log.get('b') is None
    assert len(log) == 1


def test_processes_write_their_own_file_and_read_all(tmp_path, model):
    for rank, key in ((0, 'a'), (1, 'b')):
        log = AnswerLog(tmp_path, model, rank)
        log.add(key, [[0.5, 3, True]])
        log.close()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ['answers_0.jsonl', 'answers_1.jsonl']
    log = AnswerLog(tmp_path, model, rank=2)
    assert [log.get(key) for key in 'ab'] == [[[0.5, 3, True]]] * 2
    log.close()


def test_a_line_that_was_cut_is_removed(tmp_path, model):
    file = tmp_path / 'answers_0.jsonl'
    complete = '{"key": "a", "answer": "one"}\n{"key": "b", "answer": "2"}\n'
    file.write_text(complete + '{"key": "c", "an')
    log = AnswerLog(tmp_path, model)
    assert len(log) == 2 and file.read_text() == complete
    log.add('c', 'three')
    log.close()
    assert len(AnswerLog(tmp_path, model)) == 3


def test_without_a_folder_nothing_is_stored(model):
    log = AnswerLog(None, model)
    assert log.key('answer', PROMPT, [IMAGE], {}) == ''
    log.add('a', 'one')
    assert log.get('a') is None and len(log) == 0
