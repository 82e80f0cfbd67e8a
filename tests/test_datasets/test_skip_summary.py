# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Counts and names of what a reader skips."""

from minigpt4.datasets.skip_summary import SkipSummary, counted


def test_lines_have_counts_and_the_first_names():
    skipped = SkipSummary()
    assert not skipped and skipped.lines() == []
    for i in range(1200):
        skipped.add('image', 'without a caption', f'{i}.jpg')
    skipped.add('text file', 'without text', 'a\nb.txt')
    assert skipped
    assert skipped.lines() == [
        '1,200 images without a caption (0.jpg; 1.jpg; 2.jpg; 1,197 more)',
        r'1 text file without text (a\nb.txt)',
    ]


def test_nouns():
    assert [counted(n, 'image') for n in range(3)] == [
        '0 images',
        '1 image',
        '2 images',
    ]
