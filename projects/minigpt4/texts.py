# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Which texts are accepted: one rule for prompts, questions and captions."""

import re
from typing import Any

# C0 control characters and DEL, without tab and newline
_CONTROL = re.compile('[\x00-\x08\x0b-\x1f\x7f]')
_SURROGATE = re.compile('[\ud800-\udfff]')
# characters without width, which str.strip leaves
_INVISIBLE = re.compile('[\u200b-\u200f\u2060\ufeff\u00ad]')
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
    """Whether a text shows nothing: white space, characters without width."""
    return not text.strip() or not _INVISIBLE.sub('', text).strip()


def check_characters(text: str, where: str) -> None:
    """Refuse a lone surrogate, which no tokenizer can take.

    Args:
        text: The text.
        where: What it is; the error message begins with it.

    Raises:
        ValueError: It holds half of a character.
    """
    if not text.isascii() and (found := _SURROGATE.search(text)):
        raise ValueError(
            f'{where} holds half of a character (the lone surrogate '
            f'U+{ord(found[0]):04X}, character {found.start() + 1}); remove '
            'it.'
        )


def check_text(value: Any, where: str, allow_empty: bool = False) -> str:
    r"""Check a text before it is used as a prompt, question or caption.

    Args:
        value: What was given.
        where: What it is, e.g. ``'the caption'``; the error message begins
            with it.
        allow_empty: Whether it may be empty or blank.

    Returns:
        The text without a byte order mark in front, and with ``\n`` for
        ``\r\n`` and ``\r``.

    Raises:
        ValueError: It is no text, or is empty, or holds a lone surrogate
            (half of a character), NUL or another control character than tab,
            newline and carriage return.
    """
    if not isinstance(value, str):
        raise ValueError(f'{where} is {kind_of(value)}; expected a text.')
    text = value.removeprefix('\ufeff')
    if '\r' in text:
        text = text.replace('\r\n', '\n').replace('\r', '\n')
    check_characters(text, where)
    if found := _CONTROL.search(text):
        raise ValueError(
            f'{where} holds a control character (U+{ord(found[0]):04X}, '
            f'character {found.start() + 1}); remove it.'
        )
    if not allow_empty and is_blank(text):
        raise ValueError(f'{where} is empty; expected some text.')
    return text
