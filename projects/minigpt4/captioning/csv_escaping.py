# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
r"""Protect cells of CSV files from evaluation as formulas.

A spreadsheet evaluates a cell that starts with ``= + - @``. File names,
prompts and answers may start so, and a formula can run a program or send
data. Therefore an apostrophe is written before such a start, also after a line
end, a tab or a semicolon inside the text: where a locale has another separator
than the comma, a spreadsheet starts a new cell there.

The rule can be reversed: :func:`plain_text` returns every text exactly.
"""

import re

# characters that start a formula; full-width ones do in East Asian versions
_FORMULA = '=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20'
_CELL_START = '(?:^|(?<=[;\t\r\n]))'
_TO_PROTECT = re.compile(f"{_CELL_START}(?='*[{_FORMULA}])")
_PROTECTED = re.compile(f"{_CELL_START}'(?='*[{_FORMULA}])")


def protected_cell(text: str) -> str:
    """Encode a text as a cell of a CSV file.

    Args:
        text: Any text.

    Returns:
        The text with an apostrophe before each start of a formula, and
        before each apostrophe that precedes one.
    """
    return _TO_PROTECT.sub("'", text)


def plain_text(cell: str) -> str:
    """Decode a cell that :func:`protected_cell` wrote.

    Args:
        cell: A cell of a CSV file.
    """
    return _PROTECTED.sub('', cell)
