# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Parse the caption of a sample from its JSON or text file."""

import codecs
import json
import re

from ..prompts.text_validation import check_text, json_type
from ..utils.errors import printable
from ..utils.sample_errors import CAPTION, SampleError

MAX_CAPTION_CHARACTERS = 100_000
_SPACES = re.compile('[\t\n\x85\u2028\u2029]')
# byte order mark: encoding
_ENCODINGS = (
    (codecs.BOM_UTF8, 'utf-8-sig'),
    (codecs.BOM_UTF32_LE, 'utf-32'),
    (codecs.BOM_UTF32_BE, 'utf-32'),
    (codecs.BOM_UTF16_LE, 'utf-16'),
    (codecs.BOM_UTF16_BE, 'utf-16'),
)


def decode_text(data: bytes, where: str) -> str:
    """Decode UTF-8, or the encoding of the byte order mark.

    Args:
        data: The bytes of a text.
        where: Name of the text; the error message begins with it.

    Raises:
        SampleError: The bytes are not valid in that encoding.
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
    """Check a caption and convert it to one line.

    See :func:`~minigpt4.prompts.text_validation.check_text`. Tabs and line
    ends become spaces; spaces at both ends are removed.

    Args:
        value: The value.
        where: Name of the caption; the error message begins with it.

    Raises:
        SampleError: The value is not a string, is empty, has more than
            ``MAX_CAPTION_CHARACTERS`` or an invalid character.
    """
    try:
        text = check_text(value, where, max_characters=MAX_CAPTION_CHARACTERS)
    except ValueError as error:
        raise SampleError(str(error), CAPTION) from error
    return _SPACES.sub(' ', text).strip()


def parse_caption(files: dict) -> str:
    """Return the caption of a sample of a shard.

    Args:
        files: Bytes of the sample's files by suffix. The ``caption`` of
            ``json`` is used, else ``txt``.

    Raises:
        SampleError: The sample has no valid caption.
    """
    if 'json' in files:
        try:
            record = json.loads(files['json'])
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
                f'its json cannot be read (it is {json_type(record)}; '
                'expected an object).',
                CAPTION,
            )
        caption = record.get('caption')
        if isinstance(caption, str):
            return check_caption(caption, 'the caption')
        if 'txt' not in files:
            raise SampleError(
                'its json has no caption.'
                if caption is None
                else f'its json has no caption: it is {json_type(caption)}.',
                CAPTION,
            )
    if 'txt' in files:
        return check_caption(decode_text(files['txt'], 'its txt'), 'its txt')
    suffixes = sorted(name for name in files if not name.startswith('__'))
    raise SampleError(
        f'it has {printable(str(suffixes))} but neither json nor txt; write '
        'the shards with captions.',
        CAPTION,
    )
