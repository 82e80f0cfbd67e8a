# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Invalid or large metadata neither refuses an image nor misrotates it."""

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from minigpt4.images.read import load_image, read_image

ROWS, COLUMNS = np.mgrid[:60, :80]
PHOTO = Image.fromarray(
    np.stack([COLUMNS * 3, ROWS * 4, COLUMNS + ROWS], -1).astype(np.uint8)
)
UNROTATED, ROTATED = (80, 60), (60, 80)


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def field(tag, kind, count, value):
    if not isinstance(value, bytes):
        value = struct.pack('<I', value)
    return struct.pack('<HHI', tag, kind, count) + value


def exif(*fields, values=b'', number=None):
    return (
        b'Exif\0\0II*\0\x08\0\0\0'
        + struct.pack('<H', len(fields) if number is None else number)
        + b''.join(fields)
        + b'\0\0\0\0'
        + values
    )


SIX = field(0x0112, 3, 1, 6)
X_AT_38 = {kind: field(0x011A, kind, 1, 38) for kind in (5, 10)}
EXIF = {
    'valid': (exif(SIX), ROTATED),
    'long integer': (exif(field(0x0112, 4, 1, 6)), ROTATED),
    'byte': (exif(field(0x0112, 1, 1, 6)), ROTATED),
    'text': (exif(field(0x0112, 2, 2, b'6\0\0\0')), UNROTATED),
    'two values': (exif(field(0x0112, 3, 2, 6)), UNROTATED),
    'orientation 0': (exif(field(0x0112, 3, 1, 0)), UNROTATED),
    'orientation 9': (exif(field(0x0112, 3, 1, 9)), UNROTATED),
    # Pillow #8965, #7839, #4238
    'negative rational': (
        exif(SIX, X_AT_38[10], values=struct.pack('<ii', -1, 0)),
        ROTATED,
    ),
    'rational by zero': (
        exif(SIX, X_AT_38[5], values=struct.pack('<II', 0, 0)),
        ROTATED,
    ),
    'directory elsewhere': (
        exif(SIX, field(0x8769, 4, 1, 2**32 - 1)),
        ROTATED,
    ),
    'directory in a loop': (exif(SIX, field(0x8769, 4, 1, 8)), ROTATED),
    'unknown type': (exif(SIX, field(0x010F, 99, 1, 8)), ROTATED),
    'too long text': (exif(SIX, field(0x010F, 2, 2**31 - 1, 8)), ROTATED),
    'cut after it': (exif(SIX, X_AT_38[5])[:-10], ROTATED),
    'too many fields': (exif(SIX, number=60000), ROTATED),
    'cut before it': (exif(SIX)[:16], UNROTATED),
    'no directory': (b'Exif\0\0II*\0\xff\xff\xff\x7f', UNROTATED),
    'noise': (b'Exif\0\0' + bytes(range(50)), UNROTATED),
    'empty': (b'Exif\0\0', UNROTATED),
}


def assert_same_in_training(data, size):
    """Check that inference and training apply the same orientation."""
    assert read_image(data).size == size
    turned = Image.fromarray(np.asarray(read_image(data)))
    want = np.asarray(turned.resize((40, 40), Image.Resampling.BICUBIC))
    for exact in (True, False):
        got = load_image(data, 40, exact).permute(1, 2, 0).numpy()
        assert abs(got.astype(int) - want).max() <= 2


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP'])
@pytest.mark.parametrize('name', EXIF)
def test_readable_orientation_of_invalid_exif_is_applied(kind, name):
    stored, size = EXIF[name]
    assert_same_in_training(encoded(PHOTO, kind, exif=stored), size)


def segment(marker, body):
    return bytes([0xFF, marker]) + struct.pack('>H', len(body) + 2) + body


@pytest.mark.parametrize(
    'inserted, size',
    [
        (
            segment(
                0xE1, b'http://ns.adobe.com/xap/1.0/\0<a tiff:Orientation="6">'
            ),
            ROTATED,
        ),
        (segment(0xED, b'Photoshop 3.0\x008BIM\x04'), UNROTATED),
        (segment(0xE2, b'ICC_PROFILE\0\x05'), UNROTATED),
        (segment(0xE2, b'MPF\0II*\0noise'), UNROTATED),
        (segment(0xEE, b'Adobe\0'), UNROTATED),
        (segment(0xE0, b'JFIF\0'), UNROTATED),
        (b'\xff\xff\xff', UNROTATED),  # fill bytes
    ],
)
def test_other_segments_of_a_jpeg_are_removed(inserted, size):
    data = encoded(PHOTO, 'JPEG')
    assert_same_in_training(data[:20] + inserted + data[20:], size)


def test_first_image_of_a_multi_image_jpeg_is_read():
    more = dict(save_all=True, append_images=[PHOTO.rotate(9)])
    data = encoded(PHOTO, 'MPO', **more)
    assert np.array_equal(read_image(data), read_image(encoded(PHOTO, 'JPEG')))


def chunk(kind, body):
    return (
        struct.pack('>I', len(body))
        + kind
        + body
        + struct.pack('>I', zlib.crc32(kind + body))
    )


def png_with(inserted):
    data = encoded(PHOTO, 'PNG')
    return data[:33] + inserted + data[33:]


LARGE = zlib.compress(bytes(1_300_000))


@pytest.mark.parametrize(
    'inserted',
    [
        # LlamaFactory #6300, Pillow #8363 and #2445
        chunk(b'iCCP', b'icc\0\0' + LARGE),
        chunk(b'zTXt', b'workflow\0\0' + LARGE),
        chunk(b'iTXt', b'workflow\0\1\0\0\0' + LARGE),
        chunk(b'iTXt', b'\xff\0\0\0\0\0\xff'),
        chunk(b'tEXt', b'a\0b')[:-1] + b'x',  # a wrong checksum
        chunk(b'acTL', b'\0'),
    ],
)
def test_invalid_and_large_chunks_of_a_png_are_ignored(inserted):
    found = read_image(png_with(inserted))
    assert np.array_equal(found, PHOTO)


@pytest.mark.parametrize(
    'inserted',
    [
        chunk(
            b'tEXt',
            b'Raw profile type exif\0\nexif\n 30\n'
            + exif(SIX).hex().encode()
            + b'\n',
        ),
        chunk(
            b'zTXt',
            b'Raw profile type exif\0\0'
            + zlib.compress(b'\nexif\n 30\n' + exif(SIX).hex().encode()),
        ),
        chunk(
            b'iTXt',
            b'XML:com.adobe.xmp\0\0\0\0\0<tiff:Orientation>6</tiff:Orient>',
        ),
    ],
)
def test_orientation_in_a_text_of_a_png_is_applied(inserted):
    assert_same_in_training(png_with(inserted), ROTATED)


def test_compressed_text_does_not_exhaust_memory():
    packed = zlib.compress(bytes(30_000_000))
    names = (b'workflow\0\0', b'Raw profile type exif\0\0')
    data = png_with(b''.join(chunk(b'zTXt', n + packed) for n in names * 4))
    tracemalloc.start()
    read_image(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


@pytest.mark.parametrize('compression', [None, 'tiff_lzw'])
def test_tiff_with_invalid_metadata_is_rotated(compression):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[274] = 6
    tags[282] = TiffImagePlugin.IFDRational(72, 1)
    data = encoded(PHOTO, 'TIFF', tiffinfo=tags, compression=compression)
    at = data.index(struct.pack('<HHI', 282, 5, 1))
    invalid = data[: at + 2] + struct.pack('<H', 10) + data[at + 4 :]
    for each in (data, invalid):
        assert_same_in_training(each, ROTATED)


def test_pillow_image_with_invalid_exif_is_rotated():
    data = encoded(PHOTO, 'JPEG', exif=EXIF['negative rational'][0])
    assert read_image(Image.open(io.BytesIO(data))).size == ROTATED
