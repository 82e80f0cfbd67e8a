# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The format of an encoded image, and names of image files."""

import io
import re
import warnings

from PIL import Image

from ..datasets.shard_samples import IMAGE_SUFFIXES
from ..images.read import read_image
from ..images.unreadable import describe_format
from ..utils.errors import one_line, printable
from ..utils.file_types import read_head, unexpected_content

# Pillow's formats whose suffix is not their name in lower case
_SUFFIXES = {'JPEG': 'jpg', 'MPO': 'jpg', 'TIFF': 'tif', 'JPEG2000': 'jp2'}
_NOT_IN_NAMES = re.compile(r'[^\w.\- ]+')
_MAX_NAME = 120


def suffix_of(data: bytes) -> str | None:
    """The suffix of an encoded image by its content; None for no image."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            name = image.format or ''
    except Exception:  # Pillow's decoders raise errors of many types
        return None
    return _SUFFIXES.get(name, name.lower())


def content_problem(path: str) -> str:
    """Why a file is no image, from its first bytes; '' if it may be one.

    An empty file, an HTML page, a Git LFS pointer and zeros are found. The
    image is not decoded, so that a million files take a minute.
    """
    try:
        head = read_head(path)
    except (OSError, ValueError) as error:
        return f'cannot be read ({one_line(error)})'.rstrip('.')
    if unexpected_content(head) is None:
        return ''
    kind, advice = describe_format(head)
    return f'cannot be read: {printable(path)} is {kind}; {advice}'


def as_member(data: bytes, name: str) -> tuple[str, bytes]:
    """The suffix and the bytes of an image for a shard.

    The bytes are unchanged, unless shards have no such images: then they
    are converted to PNG.

    Args:
        data: The encoded image.
        name: Its name, for errors.

    Raises:
        SampleError: It is no image that can be read completely.
    """
    suffix = suffix_of(data)
    if suffix in IMAGE_SUFFIXES:
        _require_complete(data, name)
        return suffix, data
    buffer = io.BytesIO()
    read_image(data, name).save(buffer, 'PNG')
    return 'png', buffer.getvalue()


def _require_complete(data: bytes, name: str) -> None:
    """Decode an image, a JPEG at an eighth of its size, which is faster.

    Raises:
        SampleError: It cannot be decoded, e.g. as it is truncated.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            with Image.open(io.BytesIO(data)) as image:
                if image.format == 'JPEG':
                    image.draft(None, (1, 1))
                image.load()
    except Exception:  # Pillow's decoders raise errors of many types
        # it reads more than Pillow, and says what is wrong
        read_image(data, name)


def file_stem(name: str) -> str:
    """A name for an image file, without suffix, from any name."""
    stem = re.split(r'[\\/]', name)[-1]
    before, dot, suffix = stem.rpartition('.')
    if dot and suffix.lower() in (*IMAGE_SUFFIXES, 'ppm', 'pgm'):
        stem = before
    stem = _NOT_IN_NAMES.sub('_', stem).strip(' .')
    # a name of a file has at most 255 bytes
    return stem.encode()[:_MAX_NAME].decode(errors='ignore') or 'image'
