# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Images of any mode and value range become 8-bit RGB, or are refused."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from minigpt4.datasets import SampleError, read_image

RAMP = np.linspace(0, 1, 60 * 80).reshape(60, 80)


def tiff(values, bits, form, photometric=1, extra=()):
    """A plain TIFF of one strip."""
    height, width = 60, 80
    data = values.tobytes()
    fields = [
        (256, 3, width),
        (257, 3, height),
        (258, 3, bits),
        (259, 3, 1),
        (262, 3, photometric),
        (273, 4, 8),
        (277, 3, 1),
        (278, 3, height),
        (279, 4, len(data)),
        (339, 3, form),
        *extra,
    ]
    return (
        b'II*\0'
        + struct.pack('<I', 8 + len(data))
        + data
        + struct.pack('<H', len(fields))
        + b''.join(struct.pack('<HHII', t, k, 1, v) for t, k, v in fields)
        + bytes(4)
    )


def grey(data):
    return np.asarray(read_image(data))[..., 0]


def ramp(top, kind):
    return (RAMP * top).astype(kind)


@pytest.mark.parametrize(
    'data, white',
    [
        (tiff(ramp(1, 'f4'), 32, 3), 1),
        (tiff(ramp(255, 'f4'), 32, 3), 1),
        (tiff(ramp(65535, 'f4'), 32, 3), 1),
        (tiff(ramp(0.5, 'f4'), 32, 3), 0.5),
        (tiff(ramp(255, 'i4'), 32, 2), 1),
        (tiff(ramp(65535, 'i4'), 32, 2), 1),
        (tiff(ramp(2**31 - 1, 'i4'), 32, 2), 1),
        (tiff(ramp(2**30, 'i4'), 32, 2), 0.5),
        (tiff(ramp(2**32 - 1, 'u4'), 32, 1), 1),
        (tiff(ramp(32767, 'i2'), 16, 2), 1),
        (tiff(ramp(65535, 'u2'), 16, 1), 1),
        # what the file declares: 0 to 4000
        (tiff(ramp(4000, 'i4'), 32, 2, extra=[(341, 4, 4000)]), 1),
        (b'P5 80 60 4095\n' + ramp(4095, '>u2').tobytes(), 1),
        (b'Pf\n80 60\n-1.0\n' + ramp(1, '<f4')[::-1].tobytes(), 1),
    ],
)
def test_ramp_of_any_type_becomes_a_ramp_of_8_bits(data, white):
    """Pillow #3159 and #7333: floats became black, large integers white."""
    want = RAMP * white * 255
    assert abs(grey(data) - want).max() <= 1.01


def test_tiff_whose_white_is_zero_is_inverted():
    assert (
        abs(
            grey(tiff(ramp(65535, 'u2'), 16, 1, photometric=0))
            - (1 - RAMP) * 255
        ).max()
        <= 1
    )


def test_twelve_bits_are_scaled():
    pairs = ramp(4095, 'u2').reshape(-1, 2)
    a, b = pairs[:, 0], pairs[:, 1]
    packed = np.stack([a >> 4, (a & 15) << 4 | b >> 8, b & 255], 1).astype(
        np.uint8
    )
    assert abs(grey(tiff(packed, 12, 1)) - RAMP * 255).max() <= 1


@pytest.mark.parametrize('top, want', [(0, 0), (0.5, 128), (200, 200)])
def test_constant_floats_are_scaled(top, want):
    data = tiff(np.full((60, 80), top, 'f4'), 32, 3)
    assert np.unique(grey(data)).tolist() == [want]


@pytest.mark.parametrize(
    'values, form, reason',
    [
        (np.where(RAMP > 0.5, np.nan, RAMP).astype('f4'), 3, 'NaN'),
        (np.where(RAMP > 0.5, np.inf, RAMP).astype('f4'), 3, 'infinite'),
        ((RAMP * 2 - 1).astype('f4'), 3, 'negative'),
        ((RAMP * 200 - 100).astype('i4'), 2, 'negative'),
        (ramp(10, 'f4'), 3, 'fill none of the ranges'),
        (ramp(1000, 'f4'), 3, 'fill none of the ranges'),
        (ramp(1e9, 'f4'), 3, 'fill none of the ranges'),
        (ramp(100_000, 'i4'), 2, 'fill none of the ranges'),
    ],
)
def test_values_without_a_rule_are_refused(values, form, reason):
    with pytest.raises(SampleError, match=f'{reason}.*save it with 8 bits'):
        read_image(tiff(values, 32, form), 'map.tif')


def test_transparent_value_of_16_bits_becomes_white():
    values = ramp(65535, 'u2')
    values[:30] = 7
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, 'PNG', transparency=7)
    assert (grey(buffer.getvalue())[:30] == 255).all()


@pytest.mark.parametrize('mode', ['RGBa', 'La', 'LAB', 'YCbCr', 'HSV', '1'])
def test_pillow_images_of_all_modes_become_rgb(mode):
    assert read_image(Image.new(mode, (4, 4))).mode == 'RGB'


def bmp_with_alpha(alpha):
    """A 32-bit BMP with a V4 header, as Windows programs write it."""
    masks = struct.pack('<IIII', 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    head = struct.pack('<IiiHHIIiiII', 108, 4, 4, 1, 32, 3, 64, 0, 0, 0, 0)
    head = (head + masks).ljust(108, b'\0')
    pixels = bytes([10, 10, 200, alpha]) * 16
    return b'BM' + struct.pack('<IHHI', 186, 0, 0, 122) + head + pixels


def test_alpha_of_zero_everywhere_is_ignored():
    """ImageSharp #581, Pillow #9473: such images became white."""
    assert read_image(bmp_with_alpha(0)).getpixel((0, 0)) == (200, 10, 10)
    assert read_image(bmp_with_alpha(255)).getpixel((0, 0)) == (200, 10, 10)
    file = io.BytesIO()
    Image.new('RGBA', (4, 4), (200, 10, 10, 0)).save(file, 'TGA')
    assert read_image(file.getvalue()).getpixel((0, 0)) == (200, 10, 10)


def test_transparent_value_of_one_bit_becomes_white():
    """Pillow #9281."""
    image = Image.new('1', (8, 2), 1)
    image.putpixel((0, 0), 0)
    file = io.BytesIO()
    image.save(file, 'PNG')
    data = file.getvalue()
    body = b'tRNS\0\0'  # black is transparent
    chunk = b'\0\0\0\2' + body + struct.pack('>I', zlib.crc32(body))
    got = read_image(data[:33] + chunk + data[33:])
    assert got.getpixel((0, 0)) == (255, 255, 255)
