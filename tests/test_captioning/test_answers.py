# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Answers in this process and in chunks on actors are the same."""

import itertools

import pytest
from tests.fake_ray import FakeRay, use_fake

from minigpt4.actors.chunks import ActorError
from minigpt4.captioning import answers
from minigpt4.captioning.answers import answer_many
from minigpt4.captioning.batch import CaptionTask
from minigpt4.generation.engine import Engine

SHORT = {'max_new_tokens': 6}


@pytest.fixture
def tasks(folder, monkeypatch):
    monkeypatch.setattr(answers, 'CHUNK', 8)
    (folder / 'images/1.png').write_bytes(b'no image')
    return [
        CaptionTask(f'images/{i % 3}.png', 'shape ' * (i % 5), id=i)
        for i in range(21)
    ]


def answer(model, tasks, **options):
    found = answer_many(lambda: model, tasks, 1, 1, SHORT, **options)
    return {a.task.id: a for a in itertools.chain(*found)}


def texts(found):
    return {id_: (a.text, str(a.error)) for id_, a in found.items()}


@pytest.mark.parametrize('reproducible', [False, True])
def test_actors_give_the_answers_of_one_process(
    model, tasks, monkeypatch, reproducible
):
    expected = answer(model, tasks, reproducible=reproducible)
    assert sorted(expected) == list(range(21))
    ray = use_fake(monkeypatch, FakeRay(), 3)
    found = answer(model, tasks, reproducible=reproducible)
    assert ray.actors == 3
    assert texts(found) == texts(expected)
    assert all(found[i].task is tasks[i] for i in range(21))
    assert found[0].text and found[0].bytes == expected[0].bytes
    assert 'cannot be read as an image' in str(found[1].error)


def test_a_reproducible_run_begins_each_chunk_with_an_empty_engine(
    model, tasks, monkeypatch
):
    engines = []
    start = Engine.__init__

    def record(self, *args, **options):
        engines.append(1)
        start(self, *args, **options)

    monkeypatch.setattr(Engine, '__init__', record)
    answer(model, tasks)
    assert len(engines) == 1
    answer(model, tasks, reproducible=True)
    assert len(engines) == 1 + 3


def test_a_wrong_sampling_parameter_is_the_error_of_the_actors(
    model, tasks, monkeypatch
):
    use_fake(monkeypatch, FakeRay(), 2)
    with pytest.raises(ActorError, match='temperature'):
        list(answer_many(lambda: model, tasks, 1, 1, dict(temperature=-1)))
