# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""CIDEr of small sets, computed by hand."""

import math

import pytest

from minigpt4.evaluation.bleu import ngram_counts
from minigpt4.evaluation.cider import cider_scores


def scores(*images: tuple[str, list[str]]) -> list[float]:
    captions = [caption.split() for caption, _ in images]
    references = [[text.split() for text in texts] for _, texts in images]
    return cider_scores(
        [ngram_counts(caption) for caption in captions],
        [len(caption) for caption in captions],
        [[ngram_counts(text) for text in group] for group in references],
        [[len(text) for text in group] for group in references],
    )


def test_an_equal_caption_of_four_words_scores_ten():
    images = (
        ('a b c d', ['a b c d']),
        ('e f g h', ['e f g h']),
    )
    assert scores(*images) == pytest.approx([10, 10])


def test_ngrams_longer_than_the_caption_score_zero():
    # of n = 1 to 4 only n = 1 and 2 exist
    assert scores(('a b', ['a b']), ('x', ['y']))[0] == pytest.approx(5)


def test_a_word_of_all_images_has_no_weight():
    # 'a' is in a reference of both images, 'dog' of one
    dog, cat = scores(('a', ['a dog']), ('cat', ['a cat']))
    assert dog == 0
    # the cosine of (cat) and (a, cat) is 1, for n = 1 of 4 only
    assert cat == pytest.approx(10 / 4 * math.exp(-1 / 72))


def test_repeated_words_do_not_count_more_than_in_the_reference():
    # norms 3 and 1, product 1 * 1; two words more
    first, _ = scores(('b b b', ['b']), ('x', ['y']))
    assert first == pytest.approx(10 / 4 / 3 * math.exp(-4 / 72))


def test_the_mean_over_references_is_used():
    one, _ = scores(('a b c d', ['a b c d', 'x y z w']), ('e', ['f']))
    assert one == pytest.approx(5)


def test_a_difference_of_lengths_reduces_the_score():
    images = (
        ('a b c d', ['a b c d e e e e e e']),
        ('x', ['y']),
    )
    # n = 1: (1+1+1+1) / (2 * sqrt(4 + 36)); n = 2: 3 matches, and so on
    cosines = [
        4 / (2 * math.sqrt(4 + 36)),
        3 / (math.sqrt(3) * math.sqrt(3 + 1 + 25)),
        2 / (math.sqrt(2) * math.sqrt(2 + 1 + 1 + 16)),
        1 / math.sqrt(1 + 1 + 1 + 1 + 9),
    ]
    expected = 10 / 4 * sum(cosines) * math.exp(-36 / 72)
    assert scores(*images)[0] == pytest.approx(expected)


def test_one_image_has_no_weights_and_scores_zero():
    assert scores(('a dog', ['a dog'])) == [0]


def test_empty_texts_score_zero():
    assert scores(('', ['a']), ('a', ['']), ('b', ['c'])) == [0, 0, 0]
