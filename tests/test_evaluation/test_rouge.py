# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""ROUGE-L of small texts, computed by hand and by a table."""

import random

import pytest

from minigpt4.evaluation.rouge import common_length, rouge_l


@pytest.mark.parametrize(
    ('first', 'second', 'length'),
    [
        ('a b c d', 'a c d b', 3),
        ('a b', 'c d', 0),
        ('a a a', 'a a', 2),
        ('', 'a', 0),
        ('a', '', 0),
        ('the cat sat', 'the cat sat', 3),
    ],
)
def test_the_longest_common_subsequence(first, second, length):
    assert common_length(first.split(), second.split()) == length


def test_it_equals_the_table_of_dynamic_programming():
    rng = random.Random(0)
    for _ in range(200):
        first = rng.choices('abc', k=rng.randrange(80))
        second = rng.choices('abcd', k=rng.randrange(80))
        row = [0] * (len(second) + 1)
        for token in first:
            above = row[:]
            for i, other in enumerate(second):
                row[i + 1] = (
                    above[i] + 1
                    if token == other
                    else max(above[i + 1], row[i])
                )
        assert common_length(first, second) == row[-1]


def test_precision_and_recall_may_be_of_two_references():
    # precision 1 (second reference), recall 1 (first reference)
    assert rouge_l(['a', 'b'], [['a'], ['a', 'b', 'c']]) == pytest.approx(1)


def test_recall_counts_more_than_precision():
    # precision 2/3, recall 1/2
    score = rouge_l('a x b'.split(), ['a b c d'.split()])
    expected = (1 + 1.44) * (2 / 3) * 0.5 / (0.5 + 1.44 * (2 / 3))
    assert score == pytest.approx(expected)


def test_texts_without_tokens_count_as_one_empty_token():
    assert rouge_l([], [['a']]) == 0
    assert rouge_l(['a'], [[]]) == 0
    assert rouge_l([], [[], ['a']]) == 1
