# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Broken or large metadata does not refuse an image, nor turn it wrongly."""

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
UPRIGHT, TURNED = (80, 60), (60, 80)


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
    'sound': (exif(SIX), TURNED),
    'long integer': (exif(field(0x0112, 4, 1, 6)), TURNED),
    'byte': (exif(field(0x0112, 1, 1, 6)), TURNED),
    'text': (exif(field(0x0112, 2, 2, b'6\0\0\0')), UPRIGHT),
    'two values': (exif(field(0x0112, 3, 2, 6)), UPRIGHT),
    'orientation 0': (exif(field(0x0112, 3, 1, 0)), UPRIGHT),
    'orientation 9': (exif(field(0x0112, 3, 1, 9)), UPRIGHT),
    # Pillow #8965, #7839, #4238
    'negative rational': (
        exif(SIX, X_AT_38[10], values=struct.pack('<ii', -1, 0)),
        TURNED,
    ),
    'rational by zero': (
        exif(SIX, X_AT_38[5], values=struct.pack('<II', 0, 0)),
        TURNED,
    ),
    'directory elsewhere': (exif(SIX, field(0x8769, 4, 1, 2**32 - 1)), TURNED),
    'directory in a loop': (exif(SIX, field(0x8769, 4, 1, 8)), TURNED),
    'unknown type': (exif(SIX, field(0x010F, 99, 1, 8)), TURNED),
    'too long text': (exif(SIX, field(0x010F, 2, 2**31 - 1, 8)), TURNED),
    'cut after it': (exif(SIX, X_AT_38[5])[:-10], TURNED),
    'too many fields': (exif(SIX, number=60000), TURNED),
    'cut before it': (exif(SIX)[:16], UPRIGHT),
    'no directory': (b'Exif\0\0II*\0\xff\xff\xff\x7f', UPRIGHT),
    'noise': (b'Exif\0\0' + bytes(range(50)), UPRIGHT),
    'empty': (b'Exif\0\0', UPRIGHT),
}


def assert_same_in_training(data, size):
    """Inference and both ways of training turn the image in the same way."""
    assert read_image(data).size == size
    turned = Image.fromarray(np.asarray(read_image(data)))
    want = np.asarray(turned.resize((40, 40), Image.Resampling.BICUBIC))
    for exact in (True, False):
        got = load_image(data, 40, exact).permute(1, 2, 0).numpy()
        assert abs(got.astype(int) - want).max() <= 2


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP'])
@pytest.mark.parametrize('name', EXIF)
def test_broken_exif_keeps_the_orientation_that_is_readable(kind, name):
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
            TURNED,
        ),
        (segment(0xED, b'Photoshop 3.0\x008BIM\x04'), UPRIGHT),
        (segment(0xE2, b'ICC_PROFILE\0\x05'), UPRIGHT),
        (segment(0xE2, b'MPF\0II*\0noise'), UPRIGHT),
        (segment(0xEE, b'Adobe\0'), UPRIGHT),
        (segment(0xE0, b'JFIF\0'), UPRIGHT),
        (b'\xff\xff\xff', UPRIGHT),  # fill bytes
    ],
)
def test_other_segments_of_a_jpeg(inserted, size):
    data = encoded(PHOTO, 'JPEG')
    assert_same_in_training(data[:20] + inserted + data[20:], size)


def test_multi_picture_jpeg_is_its_first_picture():
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
def test_odd_chunks_of_a_png(inserted):
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
def test_orientation_in_the_text_of_a_png(inserted):
    assert_same_in_training(png_with(inserted), TURNED)


def test_compressed_text_does_not_fill_the_memory():
    packed = zlib.compress(bytes(30_000_000))
    names = (b'workflow\0\0', b'Raw profile type exif\0\0')
    data = png_with(b''.join(chunk(b'zTXt', n + packed) for n in names * 4))
    tracemalloc.start()
    read_image(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


@pytest.mark.parametrize('compression', [None, 'tiff_lzw'])
def test_tiff_is_turned_although_its_metadata_cannot_be_written(compression):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[274] = 6
    tags[282] = TiffImagePlugin.IFDRational(72, 1)
    data = encoded(PHOTO, 'TIFF', tiffinfo=tags, compression=compression)
    at = data.index(struct.pack('<HHI', 282, 5, 1))
    odd = data[: at + 2] + struct.pack('<H', 10) + data[at + 4 :]
    for each in (data, odd):
        assert_same_in_training(each, TURNED)


def test_pillow_image_with_broken_exif():
    data = encoded(PHOTO, 'JPEG', exif=EXIF['negative rational'][0])
    assert read_image(Image.open(io.BytesIO(data))).size == TURNED
