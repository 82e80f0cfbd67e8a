# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Suggestions for unknown words."""

from minigpt4.utils.suggest import suggest


def test_the_most_similar_word_is_suggested():
    assert suggest('max_iter', ['min_iters', 'max_iters']) == 'max_iters'
    assert suggest('nonsense', ['max_iters']) == ''
    assert suggest('max_itr', ['max_iters'], cutoff=0.99) == ''
    assert suggest('word', []) == ''
