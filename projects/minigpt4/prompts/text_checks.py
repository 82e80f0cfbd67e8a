# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Which texts are accepted: one rule for prompts, questions and captions.

Stage 1 (:mod:`~minigpt4.datasets.captions`), stage 2
(:mod:`~minigpt4.datasets.record_layouts`), inference and the server use it.
"""

import re
import unicodedata
from typing import Any

# C0 control characters and DEL, without tab and newline; those of C1 are
# allowed, for texts in Windows-1252 that were read as Latin-1 have them
_CONTROL = re.compile('[\x00-\x08\x0e-\x1f\x7f]')
_LINE_END = re.compile('\r\n|[\r\x0b\x0c]')
_SURROGATE = re.compile('[\ud800-\udfff]')
_KINDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (str, 'a text'),
    (bool, 'a truth value'),
    ((int, float), 'a number'),
    (list, 'a list'),
    (dict, 'an object'),
    (type(None), 'null'),
)


def kind_of(value: Any) -> str:
    """What kind of JSON value something is, for an error message."""
    for kinds, name in _KINDS:
        if isinstance(value, kinds):
            return name
    return f'a {type(value).__name__}'


def is_blank(text: str) -> bool:
    """Whether a text has only white space and characters without width."""
    return all(
        char.isspace() or unicodedata.category(char) == 'Cf' for char in text
    )


def check_characters(text: str, where: str) -> None:
    """Refuse a lone surrogate, which no tokenizer can take.

    Args:
        text: The text.
        where: What it is; the error message begins with it.

    Raises:
        ValueError: It holds a lone surrogate: half a character, or a byte of
            a command line or file name that is not UTF-8.
    """
    if not text.isascii() and (found := _SURROGATE.search(text)):
        raise ValueError(
            f'{where} holds half a character or bytes that are not UTF-8 '
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
        value: What was given.
        where: What it is, e.g. ``'the caption'``; the error message begins
            with it.
        allow_empty: Whether it may be empty or blank.
        max_characters: The largest length; None for any.

    Returns:
        The text without a byte order mark at its start, and with ``\n`` for
        ``\r\n``, ``\r``, vertical tab and form feed.

    Raises:
        ValueError: It is not a text, is empty or too long, or holds a lone
            surrogate (half a character), NUL or another control character
            of ASCII.
    """
    if not isinstance(value, str):
        raise ValueError(f'{where} is {kind_of(value)}; expected a text.')
    if max_characters is not None and len(value) > max_characters:
        raise ValueError(
            f'{where} has {len(value):,} characters; expected at most '
            f'{max_characters:,}.'
        )
    text = _LINE_END.sub('\n', value.removeprefix('\ufeff'))
    check_characters(text, where)
    if found := _CONTROL.search(text):
        raise ValueError(
            f'{where} holds a control character (U+{ord(found[0]):04X}, '
            f'character {found.start() + 1}); remove it.'
        )
    if not allow_empty and is_blank(text):
        raise ValueError(f'{where} is empty; expected some text.')
    return text
