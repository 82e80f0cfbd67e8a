# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Convert pixels of any Pillow mode and value range to 8-bit RGB."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # TIFF tags
_MIN_SAMPLE, _MAX_SAMPLE = 340, 341
# values must reach 1/16 of a range, else the range is not assumed for them
_MIN_PART_OF_RANGE = 16


class ValueRangeError(ValueError):
    """The values of black and white of an image are not known."""


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a decoded image to RGB.

    Transparent pixels are composited over white. Grey of 16 and 32 bits and
    of floats is scaled, see :func:`value_range`.

    Raises:
        ValueRangeError: The range of its values is not known.
    """
    if image.mode == 'F' or image.mode.startswith('I'):
        return _scale(image)
    if image.mode in ('RGBa', 'La'):  # colours premultiplied by alpha
        image = image.convert({'RGBa': 'RGBA', 'La': 'LA'}[image.mode])
    if image.mode == '1' and 'transparency' in image.info:
        # Pillow does not apply transparency to images of 1 bit
        transparent = image.info['transparency']
        image = image.convert('L')
        image.info['transparency'] = transparent
    if image.mode == 'RGBA' and image.format in ('BMP', 'TGA'):
        # programs without support for transparency write alpha 0 everywhere
        if image.getchannel('A').getextrema() == (0, 0):
            return image.convert('RGB')
    if image.mode in ('RGBA', 'LA', 'PA') or 'transparency' in image.info:
        image = image.convert('RGBA')
        white = Image.new('RGBA', image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert('RGB')
    return image.convert('RGB')


def _scale(image: Image.Image) -> Image.Image:
    """Scale grey of more than 8 bits to RGB."""
    tags = getattr(image, 'tag_v2', {})
    values = np.asarray(image)
    bits = _first_value(tags, _BITS_PER_SAMPLE)
    sample_format = _first_value(tags, _SAMPLE_FORMAT)
    if bits == 32 and sample_format in (None, 1) and values.dtype == np.int32:
        values = values.view(np.uint32)
    if sample_format == 2 and bits == 16:
        values = values.astype(np.int16)
    if bits == 12:
        black, white = 0.0, 4095.0
    elif image.mode.startswith('I;16') or (
        image.mode == 'I' and image.format in ('PNG', 'PPM')
    ):
        black, white = 0.0, 65535.0
    else:
        black, white = value_range(
            values,
            _first_value(tags, _MIN_SAMPLE),
            _first_value(tags, _MAX_SAMPLE),
        )
    scaled = (values - np.float64(black)) / ((white - black) / 255)
    if _first_value(tags, _PHOTOMETRIC) == 0 and image.mode in ('I;16', 'F'):
        scaled = 255 - scaled  # 0 is white, and Pillow has not inverted it
    transparent = image.info.get('transparency')
    if isinstance(transparent, int):
        scaled[values == transparent] = 255
    return Image.fromarray(
        scaled.clip(0, 255).round().astype(np.uint8)
    ).convert('RGB')


def _first_value(tags: Mapping[int, Any], tag: int) -> Any:
    value = tags.get(tag)
    return value[0] if isinstance(value, tuple) and value else value


def value_range(
    values: np.ndarray, low: float | None = None, high: float | None = None
) -> tuple[float, float]:
    """Choose the values of black and white of grey pixels.

    A range that the file declares is used. Otherwise black is 0, and white
    is 1 (floats up to 1), 255 (up to 255) or 65,535 (up to 65,535), or the
    largest value of an integer type. A range is not assumed for values that
    stay below a sixteenth of it, as the image would become almost black;
    integers up to 255 are the exception.

    Args:
        values: ``(H, W)``, of any number type.
        low: The smallest value that the file declares.
        high: The largest value that the file declares.

    Raises:
        ValueRangeError: No rule applies.
    """
    dtype = values.dtype
    if dtype.kind == 'f' and not np.isfinite(values).all():
        number = int(np.count_nonzero(~np.isfinite(values)))
        raise ValueRangeError(
            f'{number:,} of its {values.size:,} values are NaN or infinite'
        )
    if high is not None and high > (low or 0):
        return float(low or 0), float(high)
    smallest, largest = float(values.min()), float(values.max())
    if smallest < 0:
        raise ValueRangeError(
            f'some of its values ({smallest:g} to {largest:g}, {dtype}) are '
            'negative'
        )
    is_integer = dtype.kind != 'f'
    if largest == 0:
        return 0.0, 255.0
    if not is_integer and largest <= 1:
        return 0.0, 1.0
    if largest <= 255 and (is_integer or largest >= 255 / _MIN_PART_OF_RANGE):
        return 0.0, 255.0
    whites = [np.iinfo(dtype).max] if is_integer else []
    if dtype.itemsize > 2:
        whites.insert(0, 65535)
    for white in whites:
        if white / _MIN_PART_OF_RANGE <= largest <= white:
            return 0.0, float(white)
    raise ValueRangeError(
        f'its values ({smallest:g} to {largest:g}, {dtype}) fill none of the '
        'ranges 0 to 1 (floats), 0 to 255, 0 to 65,535'
    )
