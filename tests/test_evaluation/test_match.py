# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Scores of ``match`` from stored losses, computed by hand."""

import pytest

from minigpt4.evaluation.match import other_images, score_losses


def row(image, loss, other_loss, tokens=1):
    return dict(image=image, loss=loss, other_loss=other_loss, tokens=tokens)


def test_scores_equal_those_computed_by_hand():
    summary = score_losses(
        [
            row('a', 1.0, 2.0, tokens=2),  # right
            row('a', 3.0, 2.0, tokens=6),  # wrong
            row('b', 2.0, 2.0, tokens=4),  # tie
            row('c', 1.0, 5.0, tokens=4),  # right
            dict(image='d', error='cannot be read'),
        ]
    )
    values = {key: score['value'] for key, score in summary['scores'].items()}
    assert values == {
        'loss': 7 / 4,
        'other_loss': 11 / 4,
        'gap': 1.0,
        'loss_per_token': (2 + 18 + 8 + 4) / 16,
        'other_loss_per_token': (4 + 12 + 8 + 20) / 16,
        'preferred': 2.5 / 4,
    }
    assert summary['images'] == 3 and summary['captions'] == 4
    assert summary['tokens'] == 16
    assert summary['ties'] == 1 and summary['skipped'] == 1


def test_the_order_of_the_rows_does_not_matter():
    rows = [row(str(i % 7), i * 0.37 % 1, i * 0.11 % 1) for i in range(30)]
    assert score_losses(rows) == score_losses(rows[::-1])


def test_no_scored_caption_is_refused():
    with pytest.raises(ValueError, match='no caption was scored'):
        score_losses([dict(image='a', error='cannot be read')])


def test_no_image_meets_itself_and_each_is_met_exactly_one_time():
    names = [str(i) for i in range(50)]
    circle = other_images(names, seed=0)
    assert sorted(circle) == sorted(names)
    pairs = dict(zip(circle, [*circle[1:], circle[0]]))
    assert all(name != other for name, other in pairs.items())
    assert sorted(pairs.values()) == sorted(names)


def test_the_other_images_depend_on_the_seed_alone():
    names = [str(i) for i in range(50)]
    circle = other_images(names, seed=0)
    assert other_images(names[::-1], seed=0) == circle
    assert other_images(names, seed=1) != circle
