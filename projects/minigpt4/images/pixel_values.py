# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""From pixels of any mode and value range to RGB of 8 bits."""

import numpy as np
from PIL import Image

_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_MIN_SAMPLE, _MAX_SAMPLE = 340, 341
# values that reach less than this part of a range are not taken for it
_PART = 16


class ValueRangeError(ValueError):
    """It is not known which values of an image are black and white."""


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a decoded image to RGB.

    Transparency is laid on white. Grey of 16 and 32 bits and of floats is
    scaled, see :func:`value_range`.

    Raises:
        ValueRangeError: No range is known for its values.
    """
    if image.mode == 'F' or image.mode.startswith('I'):
        return _scaled(image)
    if image.mode in ('RGBa', 'La'):  # alpha is multiplied into the colours
        image = image.convert({'RGBa': 'RGBA', 'La': 'LA'}[image.mode])
    if image.mode == '1' and 'transparency' in image.info:
        # Pillow does not apply it to images of 1 bit
        clear = image.info['transparency']
        image = image.convert('L')
        image.info['transparency'] = clear
    if image.mode == 'RGBA' and image.format in ('BMP', 'TGA'):
        # programs that know no transparency leave it at 0 everywhere
        if image.getchannel('A').getextrema() == (0, 0):
            return image.convert('RGB')
    if image.mode in ('RGBA', 'LA', 'PA') or 'transparency' in image.info:
        image = image.convert('RGBA')
        white = Image.new('RGBA', image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert('RGB')
    return image.convert('RGB')


def _scaled(image: Image.Image) -> Image.Image:
    tags = getattr(image, 'tag_v2', {})
    values = np.asarray(image)
    bits, form = _first(tags, _BITS_PER_SAMPLE), _first(tags, _SAMPLE_FORMAT)
    if bits == 32 and form in (None, 1) and values.dtype == np.int32:
        values = values.view(np.uint32)
    if form == 2 and bits == 16:
        values = values.astype(np.int16)
    if bits == 12:
        black, white = 0.0, 4095.0
    elif image.mode.startswith('I;16') or (
        image.mode == 'I' and image.format in ('PNG', 'PPM')
    ):
        black, white = 0.0, 65535.0
    else:
        black, white = value_range(
            values, _first(tags, _MIN_SAMPLE), _first(tags, _MAX_SAMPLE)
        )
    scaled = (values - np.float64(black)) / ((white - black) / 255)
    if _first(tags, _PHOTOMETRIC) == 0 and image.mode in ('I;16', 'F'):
        scaled = 255 - scaled  # 0 is white, and Pillow has not inverted it
    clear = image.info.get('transparency')
    if isinstance(clear, int):
        scaled[values == clear] = 255
    return Image.fromarray(
        scaled.clip(0, 255).round().astype(np.uint8)
    ).convert('RGB')


def _first(tags, tag: int):
    value = tags.get(tag)
    return value[0] if isinstance(value, tuple) and value else value


def value_range(
    values: np.ndarray, low: float | None = None, high: float | None = None
) -> tuple[float, float]:
    """Give the values of black and white of grey pixels.

    A range that the file declares is used. Otherwise black is 0, and white
    is 1 (floats up to 1), 255 (up to 255) or 65,535 (up to 65,535), or the
    largest value of an integer type. Values that stay below a sixteenth of
    such a range are not taken for it, save those of 8 bits: they would
    become an almost black image.

    Args:
        values: ``(H, W)``, of any number type.
        low: The smallest value that the file declares.
        high: The largest value that the file declares.

    Raises:
        ValueRangeError: No rule applies.
    """
    kind = values.dtype
    if kind.kind == 'f' and not np.isfinite(values).all():
        bad = int(np.count_nonzero(~np.isfinite(values)))
        raise ValueRangeError(
            f'{bad:,} of its {values.size:,} values are NaN or infinite'
        )
    if high is not None and high > (low or 0):
        return float(low or 0), float(high)
    least, most = float(values.min()), float(values.max())
    if least < 0:
        raise ValueRangeError(
            f'its values ({least:g} to {most:g}, {kind}) are negative in part'
        )
    whole = kind.kind != 'f'
    if most == 0:
        return 0.0, 255.0
    if not whole and most <= 1:
        return 0.0, 1.0
    if most <= 255 and (whole or most >= 255 / _PART):
        return 0.0, 255.0
    ranges = [np.iinfo(kind).max] if whole else []
    if kind.itemsize > 2:
        ranges.insert(0, 65535)
    for white in ranges:
        if white / _PART <= most <= white:
            return 0.0, float(white)
    raise ValueRangeError(
        f'its values ({least:g} to {most:g}, {kind}) fill none of the ranges '
        '0 to 1 (floats), 0 to 255, 0 to 65,535'
    )
