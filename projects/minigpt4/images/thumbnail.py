# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Thumbnails of images, and images as data URLs."""

import base64
import contextlib
import io
import warnings
from collections.abc import Iterator
from os import PathLike
from typing import IO

from PIL import Image

from ..utils.errors import printable
from ..utils.regular_files import open_regular
from .read import SampleError, read_image


def thumbnail(image: Image.Image, side: int, quality: int = 85) -> bytes:
    """Encode a small copy of an image as JPEG.

    Args:
        image: An RGB image. It is reduced in place, which saves a copy of
            an image of many megapixels.
        side: The longer side of the thumbnail, in pixels; a smaller image
            keeps its size.
        quality: JPEG quality, 1 to 95.
    """
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, 'JPEG', quality=quality)
    return buffer.getvalue()


def thumbnail_of_file(
    path: 'str | PathLike', side: int, quality: int = 85
) -> bytes:
    """Read an image file and encode a small copy of it as JPEG.

    A JPEG file is decoded at reduced size, which is several times as fast.

    Args:
        path: The file.
        side: The longer side of the thumbnail, in pixels.
        quality: JPEG quality, 1 to 95.

    Raises:
        SampleError: The file is missing or is not a readable image.
    """
    with _named_errors(str(path)), open_regular(path) as file:
        reduced = _reduced(file, str(path), side)
    return thumbnail(reduced, side, quality)


def thumbnail_of_bytes(
    data: bytes, name: str, side: int, quality: int = 85
) -> bytes:
    """As :func:`thumbnail_of_file`, of a file that is in memory.

    Args:
        data: The bytes of the file.
        name: Name of the image for error messages.
        side: The longer side of the thumbnail, in pixels.
        quality: JPEG quality, 1 to 95.

    Raises:
        SampleError: It is not a readable image.
    """
    with _named_errors(name):
        reduced = _reduced(io.BytesIO(data), name, side)
    return thumbnail(reduced, side, quality)


def _reduced(file: IO[bytes], name: str, side: int) -> Image.Image:
    """Decode an image; a JPEG file at about the size of a thumbnail."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', Image.DecompressionBombWarning)
        with Image.open(file) as image:
            image.draft('RGB', (2 * side, 2 * side))
            return read_image(image, name)


@contextlib.contextmanager
def _named_errors(name: str) -> Iterator[None]:
    try:
        yield
    except SampleError:
        raise
    except Exception as error:  # Pillow raises many types on broken files
        raise SampleError(
            f'{printable(name)} cannot be read as an image; give the path of '
            'an image.'
        ) from error


def data_url(data: bytes, media_type: str = 'image/jpeg') -> str:
    """The bytes of an image file as a ``data:`` URL.

    Args:
        data: The bytes of the file.
        media_type: Its media type.
    """
    return f'data:{media_type};base64,{base64.b64encode(data).decode()}'
