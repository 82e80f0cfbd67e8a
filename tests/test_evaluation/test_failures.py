# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Detectors of failures, with answers judged by hand."""

import pytest

from minigpt4.evaluation.failures import (
    PROMPTS,
    PUBLISHED,
    find_failures,
    sample_images,
    score_failures,
)
from minigpt4.evaluation.failures_run import failures_summary

GOOD = 'A brown dog runs over the wet grass. The sky above it is grey.'


@pytest.mark.parametrize(
    ('answer', 'fields', 'kinds'),
    [
        (GOOD, {}, []),
        (GOOD, dict(truth=['dog', 'person']), []),
        (GOOD, dict(truth=['cat']), ['irrelevance']),
        (GOOD, dict(truth=[]), []),
        (f'{GOOD} {GOOD} {GOOD}', {}, ['repetition']),
        (
            'A dog. Grass. Sky. Grey. It runs over wet grass.',
            {},
            ['fragments'],
        ),
        # 1 of 3 and of 4 sentences; 0.3 of them may be short
        (f'Grass. {GOOD}', {}, ['fragments']),
        (f'Grass. {GOOD} The trees behind it are tall.', {}, []),
        ('A brown dog runs over the', {}, ['unfinished']),
        ('A brown dog runs over the', dict(ends_with_sentence=False), []),
        (GOOD, dict(finished=False), ['unfinished']),
        ('', {}, ['unfinished']),
        ('dog dog dog dog', {}, ['repetition', 'unfinished']),
    ],
)
def test_kinds_of_failures(answer, fields, kinds):
    assert list(find_failures(answer, **fields)) == kinds


def test_rates_of_each_prompt():
    def row(number, group, answer, **fields):
        return dict(
            number=number,
            group=group,
            image_id=str(number % 2),
            answer=answer,
            finished=True,
            **fields,
        )

    rows = [
        row(0, 'caption', GOOD, truth=['dog']),
        row(1, 'caption', GOOD, truth=['cat']),
        row(2, 'poem', 'A dog in rain'),
        row(3, 'poem', 'wet wet wet wet'),
        dict(number=4, group='poem', image_id='4', error='no image'),
    ]
    found = score_failures(rows)
    assert found['answers'] == 4 and found['images'] == 2
    captions, poems = found['scores']['caption'], found['scores']['poem']
    assert captions['irrelevance']['value'] == 0.5
    assert captions['any']['value'] == 0.5
    assert captions['repetition']['value'] == 0
    # Wilson for 0 of 2: z^2 / (2 + z^2)
    assert captions['repetition']['interval'] == pytest.approx(
        [0, 3.8415 / 5.8415], abs=1e-4
    )
    assert poems['repetition']['value'] == poems['any']['value'] == 0.5
    assert poems['unfinished']['value'] == 0
    assert poems['irrelevance']['value'] is None  # no truth
    with pytest.raises(ValueError, match='no image has an answer'):
        score_failures(rows[4:])


def test_the_prompts_are_those_of_the_paper():
    assert [*PROMPTS.values()] == [
        'Describe the image in detail.',
        'Can you write a beautiful poem about this image?',
    ]
    # table 3, in percent of 100 images: before and after stage 2
    assert PUBLISHED == {'caption': (35, 2), 'poem': (32, 1)}
    published = failures_summary(
        [
            dict(
                group='caption',
                image_id='1',
                answer='A dog sleeps on the grass.',
                finished=True,
            )
        ]
    )['published']
    assert published == dict(
        caption=dict(before=0.35, after=0.02),
        poem=dict(before=0.32, after=0.01),
    )


def test_images_are_chosen_by_seed_and_name():
    files = [f'/a/{i}.jpg' for i in range(50)]
    chosen = sample_images(files, 10, 0)
    assert len(chosen) == 10 and chosen == sorted(chosen, key=files.index)
    moved = [f'/b/{i}.jpg' for i in reversed(range(50))]
    again = sample_images(moved, 10, 0)
    assert {f[3:] for f in again} == {f[3:] for f in chosen}
    assert sample_images(files, 10, 1) != chosen
    assert sample_images(files, 99, 0) == files
