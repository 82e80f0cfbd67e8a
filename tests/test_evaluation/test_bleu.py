# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""BLEU of small sets, computed by hand."""

import math

import numpy as np
import pytest

from minigpt4.evaluation.bleu import bleu_counts, bleu_scores, ngram_counts


def counts_of(caption: str, *references: str) -> list[int]:
    texts = [text.split() for text in (caption, *references)]
    counts = [ngram_counts(words) for words in texts]
    lengths = [len(words) for words in texts]
    return bleu_counts(counts[0], lengths[0], counts[1:], lengths[1:])


def test_ngrams_of_one_to_four_words_are_counted():
    counts = ngram_counts('a b a b a'.split())
    assert counts[('a',)] == 3
    assert counts[('a', 'b')] == counts[('b', 'a')] == 2
    assert counts[('a', 'b', 'a')] == 2
    assert counts[('a', 'b', 'a', 'b')] == 1
    assert max(map(len, counts)) == 4


def test_matches_are_limited_by_the_reference_that_has_most():
    counts = counts_of('the the the', 'the cat', 'the dog the')
    assert counts == [3, 3, 2, 0, 0, 0, 3, 2, 1, 0]


def test_of_two_closest_lengths_the_shorter_one_is_used():
    assert counts_of('a b c', 'a b', 'a b c d')[:2] == [3, 2]
    assert counts_of('a b c', 'a b c d', 'a b')[:2] == [3, 2]
    assert counts_of('a b c', 'a', 'a b c d')[:2] == [3, 4]


def test_an_equal_caption_scores_one():
    counts = counts_of('a dog sits on grass', 'a dog sits on grass')
    assert bleu_scores(np.array(counts)) == pytest.approx([1] * 4)


def test_precisions_are_multiplied_and_short_captions_are_penalised():
    # 3 of 4 words and 1 of 3 pairs match; 4 words instead of 5
    counts = counts_of('a dog on mat', 'a dog sits on grass')
    bleu = bleu_scores(np.array(counts))
    penalty = math.exp(1 - 5 / 4)
    assert bleu[0] == pytest.approx(penalty * 3 / 4)
    assert bleu[1] == pytest.approx(penalty * (3 / 4 * 1 / 3) ** (1 / 2))
    assert bleu[2] < 1e-4
    # no penalty for a longer one
    longer = bleu_scores(np.array(counts_of('a dog sits', 'a dog')))
    assert longer[0] == pytest.approx(2 / 3)


def test_counts_are_added_before_they_are_divided():
    first, second = counts_of('a b', 'a b'), counts_of('c d e f', 'x y z w')
    bleu = bleu_scores(np.array([first, second]).sum(0))
    assert bleu[0] == pytest.approx(2 / 6)


def test_an_empty_caption_scores_zero():
    assert counts_of('', 'a b') == [0, 2, 0, 0, 0, 0, 0, 0, 0, 0]
    assert bleu_scores(np.array(counts_of('', 'a b'))).tolist() == [0] * 4


def test_many_sums_give_a_row_each():
    sums = np.array([counts_of('a b', 'a b'), counts_of('', 'a b')])
    assert bleu_scores(sums).shape == (2, 4)
    assert bleu_scores(sums)[:, 0] == pytest.approx([1, 0])
