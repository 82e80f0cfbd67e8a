# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
r"""Cells of CSV files that no spreadsheet takes for formulas.

A spreadsheet computes a cell that begins with ``= + - @``. Names, questions
and answers may begin so, and a formula can run a program or send data. So an
apostrophe is written before such a beginning, also where the text has a line
end, a tab or a semicolon before it: with another separator than the comma
(as in many countries) a spreadsheet begins a new cell there.

The rule can be reversed: :func:`plain_text` gives every text back exactly.
"""

import re

# characters that begin a formula; the wide ones count in East Asian versions
_FORMULA = '=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20'
_CELL_BEGINS = '(?:^|(?<=[;\t\r\n]))'
_TO_PROTECT = re.compile(f"{_CELL_BEGINS}(?='*[{_FORMULA}])")
_PROTECTED = re.compile(f"{_CELL_BEGINS}'(?='*[{_FORMULA}])")


def protected_cell(text: str) -> str:
    """A text as it is written into a CSV file.

    Args:
        text: Any text.

    Returns:
        The text with an apostrophe before each beginning of a formula, and
        before each apostrophe that precedes one.
    """
    return _TO_PROTECT.sub("'", text)


def plain_text(cell: str) -> str:
    """The text of a cell that :func:`protected_cell` wrote.

    Args:
        cell: A cell of a CSV file.
    """
    return _PROTECTED.sub('', cell)
