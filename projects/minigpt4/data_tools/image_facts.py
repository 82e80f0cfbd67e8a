# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""What is measured of one image: digest, size, perceptual hash, its error."""

import hashlib
from typing import Any, NamedTuple

from ..images.read import read_image
from ..images.thumbnail import data_url, thumbnail
from ..utils.sample_errors import SampleError
from .data_items import ImageRef, read_image_bytes

HASH_BITS = 64
_BLANK_LEVELS = 8  # of 255, between the pixels of an image of one colour


class ImageFacts(NamedTuple):
    """Facts of an image.

    Attributes:
        name: Its name in reports.
        digest: SHA-256 of its file, 32 bytes; empty if it was not read.
        num_bytes: Size of its file.
        width: Width in pixels, after the EXIF orientation; 0 where unknown.
        height: Height in pixels; 0 where unknown.
        hash: Perceptual hash of 64 bits; None if it was not computed.
        error: Why it cannot be read, one sentence; None for a good one.
        is_blank: Whether all pixels have nearly the same colour.
    """

    name: str
    digest: bytes = b''
    num_bytes: int = 0
    width: int = 0
    height: int = 0
    hash: int | None = None
    error: str | None = None
    is_blank: bool = False


def measure_image(ref: ImageRef, perceptual: bool = True) -> ImageFacts:
    """Read an image completely and measure it.

    Args:
        ref: The image.
        perceptual: Whether to compute the perceptual hash.
    """
    try:
        data = read_image_bytes(ref)
    except SampleError as error:
        return ImageFacts(ref.name, error=str(error))
    digest = hashlib.sha256(data).digest()
    try:
        image = read_image(data, ref.path or ref.name)
    except SampleError as error:
        return ImageFacts(ref.name, digest, len(data), error=str(error))
    width, height = image.size
    found = perceptual_hash(image) if perceptual else None
    return ImageFacts(
        ref.name,
        digest,
        len(data),
        width,
        height,
        found,
        is_blank=_is_blank(image),
    )


def _is_blank(image: Any) -> bool:
    return all(high - low <= _BLANK_LEVELS for low, high in image.getextrema())


def thumbnail_url(ref: ImageRef, side: int) -> str:
    """Return a small copy of an image as a ``data:`` URL.

    '' for an image that cannot be read, or not again.

    Args:
        ref: The image.
        side: Longer side in pixels.
    """
    try:
        data = read_image_bytes(ref)
        return data_url(thumbnail(read_image(data, ref.name), side, 75))
    except (SampleError, OSError, ValueError):
        return ''


def require_imagehash() -> None:
    """Refuse to search near duplicates without the package imagehash.

    Raises:
        ImportError: It is not installed.
    """
    try:
        import imagehash  # noqa: F401
        import scipy.fftpack  # noqa: F401
    except ImportError as error:
        raise ImportError(
            'near-duplicate images are found with the package imagehash, '
            f"which is not installed ({error}); run: pip install 'minigpt4"
            "[curate]', or omit that search (check: --near 0; import: no "
            '--dedup).'
        ) from error


def perceptual_hash(image: Any) -> int:
    """Return the perceptual hash of an image: 64 bits of its low frequencies.

    Args:
        image: An RGB image of Pillow.

    Source: pHash of the package imagehash.
    """
    import imagehash

    bits = imagehash.phash(image).hash.flatten()
    return int(''.join('1' if bit else '0' for bit in bits), 2)
