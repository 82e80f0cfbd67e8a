# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The rule for all texts: prompts, questions, answers and captions.

Stage 1 (:mod:`~minigpt4.datasets.captions`), stage 2
(:mod:`~minigpt4.datasets.record_layouts`), inference and the server apply it.
"""

import re
import unicodedata
from typing import Any

# C0 control characters and DEL, without tab and newline. C1 is allowed, as
# texts in Windows-1252 that were decoded as Latin-1 contain it.
_CONTROL = re.compile('[\x00-\x08\x0e-\x1f\x7f]')
_LINE_END = re.compile('\r\n|[\r\x0b\x0c]')
_SURROGATE = re.compile('[\ud800-\udfff]')
_KINDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (str, 'a string'),
    (bool, 'a boolean'),
    ((int, float), 'a number'),
    (list, 'a list'),
    (dict, 'an object'),
    (type(None), 'null'),
)


def json_type(value: Any) -> str:
    """Return the JSON type of a value for an error message."""
    for kinds, name in _KINDS:
        if isinstance(value, kinds):
            return name
    return f'a {type(value).__name__}'


def is_blank(text: str) -> bool:
    """Return whether a text has only white space and zero-width characters."""
    return all(
        char.isspace() or unicodedata.category(char) == 'Cf' for char in text
    )


def check_characters(text: str, where: str) -> None:
    """Refuse a lone surrogate, which no tokenizer can encode.

    Args:
        text: The text.
        where: Name of the text; the error message begins with it.

    Raises:
        ValueError: The text contains a lone surrogate: half a character, or
            a byte of a command line or file name that is not UTF-8.
    """
    if not text.isascii() and (found := _SURROGATE.search(text)):
        raise ValueError(
            f'{where} contains half a character or bytes that are not UTF-8 '
            f'(U+{ord(found[0]):04X}, character {found.start() + 1}); write '
            'it as UTF-8.'
        )


def check_text(
    value: Any,
    where: str,
    allow_empty: bool = False,
    max_characters: int | None = None,
) -> str:
    r"""Check a text before it is used as a prompt, question or caption.

    Args:
        value: The value.
        where: Name of the text, e.g. ``'the caption'``; the error message
            begins with it.
        allow_empty: Whether the text may be empty or blank.
        max_characters: The largest length; None for no limit.

    Returns:
        The text without a byte order mark at its start, and with ``\n`` for
        ``\r\n``, ``\r``, vertical tab and form feed.

    Raises:
        ValueError: The value is not a string, is empty or too long, or
            contains a lone surrogate (half a character), NUL or another
            control character of ASCII.
    """
    if not isinstance(value, str):
        raise ValueError(f'{where} is {json_type(value)}; expected a string.')
    if max_characters is not None and len(value) > max_characters:
        raise ValueError(
            f'{where} has {len(value):,} characters; expected at most '
            f'{max_characters:,}.'
        )
    text = _LINE_END.sub('\n', value.removeprefix('\ufeff'))
    check_characters(text, where)
    if found := _CONTROL.search(text):
        raise ValueError(
            f'{where} contains a control character (U+{ord(found[0]):04X}, '
            f'character {found.start() + 1}); remove it.'
        )
    if not allow_empty and is_blank(text):
        raise ValueError(f'{where} is empty; expected some text.')
    return text
