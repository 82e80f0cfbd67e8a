# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Many tasks through one engine: order, limits, failures."""

import time
from itertools import chain

import pytest

from minigpt4.captioning import batch
from minigpt4.captioning.batch import (
    CaptionTask,
    ModelFailureError,
    answer_tasks,
    result_fields,
    sort_by_prompt_length,
)
from minigpt4.generation.engine import Engine

SHORT = {'max_new_tokens': 3}
HOW_MANY = 'How many shapes are there?'


def run_tasks(model, tasks, slots, workers, settings):
    for answers in answer_tasks(model, tasks, slots, workers, settings):
        yield [result_fields(answer) for answer in answers]


def fail(*args):
    raise RuntimeError('out of memory\nlong explanation')


def test_slots_are_filled_and_few_images_are_decoded_ahead(
    model, folder, monkeypatch
):
    decoded, running, ahead = [], [], []
    read, step = batch.read_image, Engine.step
    monkeypatch.setattr(
        batch, 'read_image', lambda *a: decoded.append(a) or read(*a)
    )

    def record(self):
        more = step(self)
        running.append(self.running)
        return more

    monkeypatch.setattr(Engine, 'step', record)
    tasks = [
        CaptionTask(f'images/{i % 3}.png', f'{HOW_MANY}{i}') for i in range(30)
    ]
    settings = dict(min_new_tokens=12, max_new_tokens=12)
    n_ended = 0
    for results in run_tasks(model, tasks, 2, 2, settings):
        n_ended += len(results)
        ahead.append(len(decoded) - n_ended)
    assert n_ended == 30
    assert max(running) == 2
    assert max(ahead) <= 4 * 2 + 2 * 2


def test_slow_images_do_not_change_the_batches_where_slots_wait(
    model, folder, monkeypatch
):
    read, step = batch.read_image, Engine.step
    running: list[int] = []

    def record(self):
        more = step(self)
        running.append(self.running)
        return more

    def read_slowly(data, name):
        if name.endswith('1.png'):
            time.sleep(0.05)
        return read(data, name)

    monkeypatch.setattr(Engine, 'step', record)
    settings = dict(min_new_tokens=4, max_new_tokens=4)
    runs = []
    for reader in (read, read_slowly):
        monkeypatch.setattr(batch, 'read_image', reader)
        running.clear()
        tasks = [
            CaptionTask(f'images/{i % 3}.png', HOW_MANY, id=i)
            for i in range(9)
        ]
        groups = [
            [answer.task.id for answer in answers]
            for answers in answer_tasks(
                model, tasks, 2, 1, settings, wait_for_images=True
            )
        ]
        runs.append((groups, [*running]))
    assert runs[0] == runs[1]


def test_prompts_of_similar_length_are_adjacent_within_a_window():
    tasks = [
        CaptionTask('a', 'xx'),
        CaptionTask('a', 'x'),
        CaptionTask('b', 'x'),
        CaptionTask('c', ''),
    ]
    assert list(sort_by_prompt_length(tasks, 3)) == [
        tasks[1],
        tasks[2],
        tasks[0],
        tasks[3],
    ]


def test_an_error_of_the_model_is_the_error_of_its_result(
    model, folder, monkeypatch
):
    monkeypatch.setattr(model.neck, 'forward', fail)
    tasks = [CaptionTask('images/0.png', HOW_MANY)]
    found = list(chain(*run_tasks(model, tasks, 2, 1, {})))
    assert [fields['error'] for fields in found] == ['out of memory']


def test_an_unexpected_error_is_the_error_of_its_result(
    model, folder, monkeypatch
):
    submit = Engine.submit

    def broken(self, row, images, **settings):
        if len(row.ids) > 40:
            raise KeyError('an unexpected type')
        return submit(self, row, images, **settings)

    monkeypatch.setattr(Engine, 'submit', broken)
    tasks = [
        CaptionTask(f'images/{i}.png', 'shape ' * 60 if i == 1 else HOW_MANY)
        for i in range(3)
    ]
    found = {
        fields['image']: fields
        for fields in chain(*run_tasks(model, tasks, 1, 1, SHORT))
    }
    assert found['images/1.png']['error'] == "'an unexpected type'"
    assert found['images/0.png']['caption']
    assert found['images/2.png']['caption']


def test_a_model_that_always_fails_ends_the_run(model, folder, monkeypatch):
    monkeypatch.setattr(model.neck, 'forward', fail)
    tasks = [
        CaptionTask(f'images/{i % 3}.png', f'{HOW_MANY}{i}') for i in range(99)
    ]
    found = []
    with pytest.raises(ModelFailureError, match='at 1[67] questions in succ'):
        for results in run_tasks(model, tasks, 2, 1, {}):
            found += results
    assert 16 <= len(found) <= 17
    assert {fields['error'] for fields in found} == {'out of memory'}
