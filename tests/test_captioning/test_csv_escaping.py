# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Cells of CSV files: protected against formulas, and restored exactly."""

import pytest

from minigpt4.captioning.csv_escaping import plain_text, protected_cell

TEXTS = [
    '=1+1',
    '+1',
    '-1',
    '@SUM(1)',
    '\t=1',
    '\r=1',
    '\n=1',
    '=HYPERLINK("http:,,x","y")',
    "=cmd|' /C calc'!A0",
    "'=1",
    "''+1",
    'a;=1',
    'a;\'-b"c',
    'a\t@b',
    'A list:\n- one\n- two\n\n=end',
    '\uff1d1',
    '-',
    "'",
    "'quoted'",
    '',
    ' =1',
    'plain text, 1 + 1 = 2',
    'a\r\n=b',
]


@pytest.mark.parametrize('text', TEXTS)
def test_no_cell_is_a_formula_and_every_text_is_restored(text):
    cell = protected_cell(text)
    assert plain_text(cell) == text
    # with the separator of any locale, quoted or not
    for separator in ';\t\n\r':
        for part in cell.split(separator):
            assert not part.startswith(tuple('=+-@\uff1d'))
    assert not cell.startswith(('\t', '\r', '\n'))


@pytest.mark.parametrize(
    'text', ['1 + 1 = 2', ' =1', "'", "'quoted'", '', 'a-b; c', 'x\ny', "it's"]
)
def test_other_texts_are_not_changed(text):
    assert protected_cell(text) == plain_text(text) == text
