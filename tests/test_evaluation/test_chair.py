# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""CHAIR: cases computed by hand, and published figures."""

import json
import random
import time

import pytest

from minigpt4.evaluation.chair import score_captions
from minigpt4.evaluation.object_words import coco_words


def values(rows, truth):
    scores = score_captions(rows, truth)['scores']
    return {key: score['value'] for key, score in scores.items()}


def row(image_id, caption, **fields):
    return dict(image_id=image_id, caption=caption, **fields)


def test_scores_equal_those_computed_by_hand():
    truth = {'1': ['dog', 'person'], '2': ['cat', 'chair', 'tv'], '3': []}
    rows = [
        row(1, 'A man with two dogs and a ball; the dogs run.'),  # 4, 1
        row(2, 'A cat.'),  # 1, 0
        row('3', 'A cat on a couch.'),  # 2, 2
        row(3, 'A wall.'),  # 0, 0
        row(4, 'A dog.'),  # no truth
    ]
    summary = score_captions(rows, truth)
    assert values(rows, truth) == {
        'chair_i': round(3 / 7, 6),
        'chair_s': 2 / 4,
        'recall': round((2 / 2 + 1 / 3) / 2, 6),  # image 3 has no class
        'recall_over_classes': 3 / 5,
        'words': (11 + 2 + 5 + 2) / 4,
        'detailed': 0,
    }
    assert summary['captions'] == 4 and summary['images'] == 3
    assert summary['mentions'] == 7 and summary['invented'] == 3
    assert summary['without_truth'] == 1
    assert summary['invented_classes'] == {
        'cat': 1,
        'couch': 1,
        'sports ball': 1,
    }


def test_descriptions_are_checked_for_length_and_end():
    truth = {'1': ['dog']}
    rows = [
        row(1, 'word ' * number, finished=number != 121)
        for number in (39, 40, 120, 121)
    ]
    assert values(rows, truth)['detailed'] == 0.5
    assert values(rows, truth)['finished'] == 0.75
    assert 'finished' not in values([*rows, row(1, 'a dog')], truth)


def test_captions_without_truth_are_refused():
    with pytest.raises(ValueError, match='none of the 1 captions'):
        score_captions([row(1, 'a dog')], {'2': ['dog']})


@pytest.mark.parametrize(
    ('name', 'chair_i', 'chair_s'),
    [('short', 0.067, 0.095), ('long', 0.092, 0.315)],
)
def test_published_captions_have_their_published_scores(
    evaluation_data, name, chair_i, chair_s
):
    folder = evaluation_data / 'chair'
    truth = json.loads((folder / 'coco_objects.json').read_text())
    file = folder / f'minigpt4_13b_{name}.jsonl'
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    start = time.process_time()
    found = values(rows, truth)
    seconds = time.process_time() - start
    assert len(rows) == 2000
    assert found['chair_i'] == pytest.approx(chair_i, abs=0.001)
    assert found['chair_s'] == pytest.approx(chair_s, abs=0.001)
    assert seconds < 2  # 10,000 captions in less than 10 s


def test_10000_captions_are_scored_in_10_seconds():
    """Captions of 120 words; no two are equal."""
    rng = random.Random(0)
    words = coco_words()
    known = [*words.classes, 'seats', 'men', 'toilet seat', 'hot dogs']
    others = [f'word{letter}s' for letter in 'abcdefghijklmnopqrstuvwxyz']
    rows = [
        row(i % 5000, ' '.join(rng.choices([*known, *others], k=100)))
        for i in range(10_000)
    ]
    truth = {str(i): rng.sample(words.classes, 3) for i in range(5000)}
    start = time.process_time()
    summary = score_captions(rows, truth)
    assert time.process_time() - start < 10
    assert summary['captions'] == 10_000
