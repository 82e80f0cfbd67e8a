# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The caption of a sample from the bytes of its JSON or text file."""

import codecs
import json
import re

from ..errors import printable
from .images import SampleError

MAX_CAPTION_CHARACTERS = 100_000
REASON = 'caption cannot be used'
_BLANKS = re.compile('\r\n|[\t\n\r\x0b\x0c\x85\u2028\u2029]')
_CONTROLS = re.compile('[\0-\x1f\x7f-\x9f]')
_ENCODINGS = (
    (codecs.BOM_UTF8, 'utf-8-sig'),
    (codecs.BOM_UTF32_LE, 'utf-32'),
    (codecs.BOM_UTF32_BE, 'utf-32'),
    (codecs.BOM_UTF16_LE, 'utf-16'),
    (codecs.BOM_UTF16_BE, 'utf-16'),
)


def decode_text(data: bytes, where: str) -> str:
    """Decode UTF-8, or what a byte order mark says.

    Raises:
        SampleError: It is not that encoding.
    """
    encoding = next(
        (name for mark, name in _ENCODINGS if data.startswith(mark)), 'utf-8'
    )
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise SampleError(
            f'{where} is no {encoding.upper()} text (byte {error.start}); '
            'save it as UTF-8.',
            REASON,
        ) from error


def check_text(value: object, where: str) -> str:
    """Give a text that the tokenizer takes.

    A byte order mark and blanks at both ends are removed; tabs and line ends
    become blanks.

    Args:
        value: Anything.
        where: What to call it in errors.

    Raises:
        SampleError: It is no string, holds a lone surrogate or a control
            character, is empty or longer than ``MAX_CAPTION_CHARACTERS``.
    """
    if not isinstance(value, str):
        raise SampleError(
            f'{where} is of type {type(value).__name__}; expected a string.',
            REASON,
        )
    if len(value) > MAX_CAPTION_CHARACTERS:
        raise SampleError(
            f'{where} has {len(value):,} characters; expected at most '
            f'{MAX_CAPTION_CHARACTERS:,}.',
            REASON,
        )
    text = _BLANKS.sub(' ', value.removeprefix('\ufeff')).strip()
    _refuse_halves(text, where)
    if found := _CONTROLS.search(text):
        raise SampleError(
            f'{where} holds the control character {printable(found[0])}; '
            'remove it.',
            REASON,
        )
    # characters without width are no words
    if not any(char.isprintable() and not char.isspace() for char in text):
        raise SampleError(f'{where} is empty; expected some words.', REASON)
    return text


def _refuse_halves(text: str, where: str) -> None:
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = printable(text[error.start])
        raise SampleError(
            f'{where} holds half a character ({half}, a lone surrogate); it '
            'was cut: write it again.',
            REASON,
        ) from error


def caption_of(sample: dict) -> str:
    """The caption of a sample of a shard.

    Args:
        sample: Bytes by suffix; the ``caption`` of ``json`` is used, else
            ``txt``.

    Raises:
        SampleError: It has no caption that can be used.
    """
    if 'json' in sample:
        try:
            record = json.loads(sample['json'])
        except (ValueError, RecursionError) as error:
            reason = (
                'it is nested too deeply'
                if isinstance(error, RecursionError)
                else printable(str(error)[:200])
            )
            raise SampleError(
                f'its json cannot be read ({reason}).', REASON
            ) from error
        if not isinstance(record, dict):
            raise SampleError(
                f'its json cannot be read (it is a {type(record).__name__}; '
                'expected an object).',
                REASON,
            )
        caption = record.get('caption')
        if isinstance(caption, str):
            return check_text(caption, 'the caption')
        if 'txt' not in sample:
            kind = type(caption).__name__
            raise SampleError(
                'its json has no caption.'
                if caption is None
                else f'its json has no caption: it is of type {kind}.',
                REASON,
            )
    if 'txt' in sample:
        return check_text(decode_text(sample['txt'], 'its txt'), 'its txt')
    found = sorted(name for name in sample if not name.startswith('__'))
    raise SampleError(
        f'it has {printable(str(found))} but neither json nor txt; write the '
        'shards with captions.',
        REASON,
    )
