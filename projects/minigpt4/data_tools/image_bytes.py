# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The format of an encoded image, and names of image files."""

import io
import re

from PIL import Image

from ..datasets.shard_samples import IMAGE_SUFFIXES
from ..images.read import read_image

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


def as_member(data: bytes, name: str) -> tuple[str, bytes]:
    """The suffix and the bytes of an image for a shard.

    The bytes are unchanged, unless shards have no such images: then they
    are converted to PNG.

    Args:
        data: The encoded image.
        name: Its name, for errors.

    Raises:
        SampleError: It is no image that can be read.
    """
    suffix = suffix_of(data)
    if suffix in IMAGE_SUFFIXES:
        return suffix, data
    buffer = io.BytesIO()
    read_image(data, name).save(buffer, 'PNG')
    return 'png', buffer.getvalue()


def file_stem(name: str) -> str:
    """A name for an image file, without suffix, from any name."""
    stem = re.split(r'[\\/]', name)[-1]
    before, dot, suffix = stem.rpartition('.')
    if dot and suffix.lower() in (*IMAGE_SUFFIXES, 'ppm', 'pgm'):
        stem = before
    stem = _NOT_IN_NAMES.sub('_', stem).strip(' .')
    # a name of a file has at most 255 bytes
    return stem.encode()[:_MAX_NAME].decode(errors='ignore') or 'image'
