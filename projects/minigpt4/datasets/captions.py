# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The caption of a sample from the bytes of its JSON or text file."""

import codecs
import json
import re

from ..images.read import SampleError
from ..prompts.text_checks import check_text, kind_of
from ..utils.errors import printable
from ..utils.fault_log import CAPTION

MAX_CAPTION_CHARACTERS = 100_000
_BLANKS = re.compile('[\t\n\x85\u2028\u2029]')
_ENCODINGS = (
    (codecs.BOM_UTF8, 'utf-8-sig'),
    (codecs.BOM_UTF32_LE, 'utf-32'),
    (codecs.BOM_UTF32_BE, 'utf-32'),
    (codecs.BOM_UTF16_LE, 'utf-16'),
    (codecs.BOM_UTF16_BE, 'utf-16'),
)


def decode_text(data: bytes, where: str) -> str:
    """Decode UTF-8, or the encoding that a byte order mark names.

    Raises:
        SampleError: It is not of that encoding.
    """
    encoding = next(
        (name for mark, name in _ENCODINGS if data.startswith(mark)), 'utf-8'
    )
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise SampleError(
            f'{where} is not {encoding.upper()} text (byte {error.start}); '
            'save it as UTF-8.',
            CAPTION,
        ) from error


def check_caption(value: object, where: str) -> str:
    """Check a caption and make it one line.

    See :func:`~minigpt4.prompts.text_checks.check_text`. Blanks at both ends
    are removed; tabs and line ends become blanks.

    Args:
        value: What was given.
        where: What it is; the error message begins with it.

    Raises:
        SampleError: It is not a text, is empty, has more than
            ``MAX_CAPTION_CHARACTERS`` or a character that is refused.
    """
    try:
        text = check_text(value, where, max_characters=MAX_CAPTION_CHARACTERS)
    except ValueError as error:
        raise SampleError(str(error), CAPTION) from error
    return _BLANKS.sub(' ', text).strip()


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
                f'its json cannot be read ({reason}).', CAPTION
            ) from error
        if not isinstance(record, dict):
            raise SampleError(
                f'its json cannot be read (it is {kind_of(record)}; expected '
                'an object).',
                CAPTION,
            )
        caption = record.get('caption')
        if isinstance(caption, str):
            return check_caption(caption, 'the caption')
        if 'txt' not in sample:
            raise SampleError(
                'its json has no caption.'
                if caption is None
                else f'its json has no caption: it is {kind_of(caption)}.',
                CAPTION,
            )
    if 'txt' in sample:
        return check_caption(decode_text(sample['txt'], 'its txt'), 'its txt')
    found = sorted(name for name in sample if not name.startswith('__'))
    raise SampleError(
        f'it has {printable(str(found))} but neither json nor txt; write the '
        'shards with captions.',
        CAPTION,
    )
