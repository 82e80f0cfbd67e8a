# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Descriptions from the captions of one photograph."""

import pytest

from minigpt4.datasets.describe_photo import MAX_WORDS, describe


@pytest.mark.parametrize(
    'caption, sentence',
    [
        ('a dog runs ', 'A dog runs.'),
        ('"A dog  runs."', 'A dog runs.'),
        ('A DOG RUNS !', 'A dog runs.'),
        ('a dog , a cat .', 'A dog, a cat.'),
        ('what is this?', 'What is this?'),
        ('ein Hund läuft', 'Ein Hund läuft.'),
    ],
)
def test_one_caption_becomes_a_sentence(caption, sentence):
    assert describe([caption]) == sentence


def test_the_most_typical_caption_comes_first():
    text = describe(
        [
            'Something odd over there',
            'A brown dog runs on a beach',
            'A dog on a beach with a ball',
        ]
    )
    assert text.startswith('A dog on a beach with a ball.')
    assert 'brown dog' in text and 'odd' in text


def test_equal_captions_are_used_once():
    assert describe(['A dog runs', 'a dog runs.', 'A dog runs']) == (
        'A dog runs.'
    )


def test_other_number_of_people_comes_last():
    text = describe(
        [
            'Three men sit on a bench in a park by the lake',
            'Two men sit on a bench in a park',
            'Two men on a bench near a lake',
        ]
    )
    assert text.split('. ')[-1].startswith('Three men')


def test_length_is_limited_and_the_order_is_reproducible():
    captions = [f'word{i} ' * 30 + f'end{i}' for i in range(6)]
    text = describe(captions)
    assert len(text.split()) <= MAX_WORDS
    assert describe(captions) == text


def test_long_single_caption_is_kept():
    caption = 'word ' * (MAX_WORDS + 20)
    assert len(describe([caption]).split()) == MAX_WORDS + 20
