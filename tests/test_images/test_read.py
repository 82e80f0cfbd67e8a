# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Images are read as the official pipeline reads them, or refused."""

import io
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from minigpt4.datasets import SampleError, read_image
from minigpt4.images import read as images
from minigpt4.images.read import load_image, to_tensor
from minigpt4.models.data_preprocessor import ImageNormalizer


def picture(height=37, width=53, channels=3, seed=0):
    pixels = np.random.default_rng(seed).integers(
        0, 256, (height, width, channels), dtype=np.uint8
    )
    return Image.fromarray(pixels.squeeze())


def encoded(image, kind='PNG', **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def array(image):
    return np.asarray(image)


def refusal(source, **kwargs):
    with pytest.raises(SampleError) as error:
        read_image(source, **kwargs)
    message = str(error.value)
    assert '\n' not in message and message.endswith('.')
    return message


@pytest.mark.parametrize('kind', ['PNG', 'JPEG'])
@pytest.mark.parametrize('size', [(53, 37), (224, 224), (300, 500)])
def test_rgb_has_the_bits_of_the_official_pipeline(kind, size):
    data = encoded(picture(size[1], size[0]), kind)
    want = Image.open(io.BytesIO(data)).convert('RGB')
    if size != (224, 224):
        want = want.resize((224, 224), Image.Resampling.BICUBIC)
    want = torch.from_numpy(array(want).copy()).permute(2, 0, 1) / 255
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])
    want = (want - mean[:, None, None]) / std[:, None, None]
    got = to_tensor(read_image(data), 224)
    assert got.dtype == torch.uint8
    assert got.permute(1, 2, 0).is_contiguous()  # rows of pixels, no copy
    batch = dict(images=got[None], inputs=NoInputs())
    assert torch.equal(ImageNormalizer()(batch)['images'][0], want)


class NoInputs(tuple):
    """Inputs without a tensor."""

    def __new__(cls):
        return super().__new__(cls)


def test_aspect_ratio_is_not_kept():
    wide = Image.new('RGB', (200, 20), 'red')
    assert to_tensor(wide, 56).shape == (3, 56, 56)
    assert to_tensor(wide, 56)[0].min() == 255


def test_opaque_rgba_equals_its_rgb():
    image = picture(channels=4)
    image.putalpha(255)
    assert np.array_equal(
        array(read_image(encoded(image))), array(image.convert('RGB'))
    )


@pytest.mark.parametrize(
    'image, want',
    [
        (Image.new('RGBA', (4, 4), (10, 20, 30, 0)), (255, 255, 255)),
        (Image.new('RGBA', (4, 4), (255, 0, 0, 51)), (255, 204, 204)),
        (Image.new('LA', (4, 4), (0, 0)), (255, 255, 255)),
        (Image.new('LA', (4, 4), (80, 255)), (80, 80, 80)),
        (Image.new('L', (4, 4), 77), (77, 77, 77)),
        (Image.new('1', (4, 4), 1), (255, 255, 255)),
    ],
)
def test_transparency_is_composited_over_white(image, want):
    assert read_image(encoded(image)).getpixel((1, 2)) == want


def test_transparent_palette_and_grey_values_become_white():
    image = Image.new('P', (4, 4), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((3, 0), 1)
    got = read_image(encoded(image, transparency=0))
    assert got.mode == 'RGB'
    assert got.getpixel((0, 0)) == (255, 255, 255)
    assert got.getpixel((3, 0)) == (0, 0, 255)
    opaque = read_image(encoded(image))
    assert opaque.getpixel((0, 0)) == (255, 0, 0)
    grey = Image.new('L', (4, 4), 9)
    grey.putpixel((0, 0), 100)
    got = read_image(encoded(grey, transparency=9))
    assert got.getpixel((1, 1)) == (255, 255, 255)
    assert got.getpixel((0, 0)) == (100, 100, 100)


def test_cmyk_is_converted():
    red = Image.new('CMYK', (16, 16), (0, 255, 255, 0))
    r, g, b = read_image(encoded(red, 'JPEG', quality=95)).getpixel((8, 8))
    assert r > 230 and g < 30 and b < 30


@pytest.mark.parametrize('top', [65535, 257 * 100, 200])
def test_grey_of_16_bits_is_scaled_from_its_full_range(top):
    values = np.linspace(0, top, 64).reshape(8, 8).astype(np.uint16)
    data = encoded(Image.fromarray(values))
    assert Image.open(io.BytesIO(data)).mode.startswith('I')
    got = array(read_image(data))
    want = (values / 257).round().astype(np.uint8)
    assert np.array_equal(got, np.repeat(want[..., None], 3, axis=2))


@pytest.mark.parametrize('orientation', range(1, 9))
def test_exif_rotation_is_applied(orientation):
    upright = array(picture(5, 7))
    turns = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(
        Image.fromarray(np.ascontiguousarray(turns[orientation])),
        exif=exif,
    )
    assert np.array_equal(array(read_image(data)), upright)


def test_path_bytes_and_pillow_image_give_equal_pixels(tmp_path):
    data = encoded(picture())
    path = tmp_path / 'an image'
    path.write_bytes(data)
    want = array(picture())
    for source in (path, str(path), data, picture()):
        assert np.array_equal(array(read_image(source)), want)


def test_arrays_are_bgr():
    red = np.zeros((6, 8, 3), np.uint8)
    red[..., 2] = 255  # as in cv2 and MMPretrain
    assert read_image(red).getpixel((3, 3)) == (255, 0, 0)
    grey = np.full((6, 8), 40, np.uint8)
    assert read_image(grey).getpixel((3, 3)) == (40, 40, 40)


@pytest.mark.parametrize(
    'bad',
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((3, 4), np.uint16),
        np.zeros((1, 3, 4, 4), np.uint8),
    ],
)
def test_arrays_of_other_shapes_and_types_are_refused(bad):
    message = refusal(bad, name='frame 7')
    assert message.startswith('frame 7') and str(bad.dtype) in message
    assert 'BGR' in message


@pytest.mark.parametrize('shape', [(0, 0, 3), (0, 5), (5, 0, 3)])
def test_empty_array_is_refused(shape):
    assert 'empty array' in refusal(np.zeros(shape, np.uint8))


def test_empty_pillow_image_is_refused():
    assert 'empty (0 x 5' in refusal(Image.new('RGB', (0, 5)))


def test_truncated_jpeg_is_refused(tmp_path):
    data = encoded(picture(200, 200), 'JPEG')
    path = tmp_path / 'half.jpg'
    path.write_bytes(data[: len(data) // 2])
    assert str(path) in refusal(path)
    refusal(data[: len(data) // 2])


@pytest.mark.parametrize('data', [b'', b'GIF89a', b'<html>not found</html>'])
def test_file_without_an_image_is_refused(tmp_path, data):
    path = tmp_path / 'page.jpg'
    path.write_bytes(data)
    assert 'cannot be read as an image' in refusal(path)
    assert 'cannot be read as an image' in refusal(data)


def test_missing_path_is_refused(tmp_path):
    message = refusal(tmp_path / 'no.jpg')
    assert str(tmp_path / 'no.jpg') in message and 'not exist' in message
    assert str(tmp_path) in refusal(tmp_path)  # a folder


@pytest.mark.parametrize('side', [13_378, 60_000])
def test_huge_image_is_refused_before_decoding(side):
    """The header states a size; no pixels follow it."""
    data = bytearray(encoded(Image.new('L', (1, 1))))
    data[16:24] = side.to_bytes(4, 'big') * 2
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, 'big')
    assert side * side > images.MAX_PIXELS
    message = refusal(bytes(data))
    assert str(images.MAX_PIXELS // 10**6) in message or 'bomb' in message


# load_image(..., exact=False)


def photo_like(height, width, channels=3):
    """Make a smooth image like a photograph: waves with a little noise."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width] / 60
    waves = [np.sin(x * k + y * (3 - k)) for k in range(channels)]
    pixels = np.stack(waves, -1) * 90 + 128 + rng.normal(0, 9, (1, 1, 1))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8).squeeze())


def largest_difference(source, size=224):
    fast = load_image(source, size, exact=False)
    exact = load_image(source, size)
    assert fast.dtype == torch.uint8
    assert fast.permute(1, 2, 0).is_contiguous()  # rows of pixels, no copy
    assert fast.shape == exact.shape == (3, size, size)
    difference = (fast.int() - exact.int()).abs()
    # measured .089 and 1.3e-5
    assert (difference > 0).float().mean() < 0.1
    assert (difference > 1).float().mean() < 1e-4
    return int(difference.max())


@pytest.mark.parametrize(
    'size', [(224, 224), (480, 640), (640, 480), (225, 3000), (500, 224)]
)
def test_fast_values_are_close_to_exact_values(tmp_path, size):
    image = photo_like(*size)
    data = encoded(image, 'JPEG', quality=90)
    assert largest_difference(data) <= (0 if size == (224, 224) else 2)
    (tmp_path / 'a.jpg').write_bytes(data)
    assert largest_difference(tmp_path / 'a.jpg') <= 2
    assert largest_difference(str(tmp_path / 'a.jpg')) <= 2
    assert largest_difference(array(image)[..., ::-1]) <= 2


@pytest.mark.parametrize('mode', ['L', 'CMYK'])
def test_fast_values_of_grey_and_cmyk_are_close_to_exact_values(mode):
    data = encoded(photo_like(300, 400).convert(mode), 'JPEG', quality=90)
    assert largest_difference(data) <= 2


@pytest.mark.parametrize('orientation', range(1, 9))
def test_fast_values_of_rotated_images_are_close_to_exact_values(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photo_like(300, 400), 'JPEG', quality=90, exif=exif)
    assert largest_difference(data) <= 2


@pytest.mark.parametrize(
    'source',
    [
        encoded(picture(300, 300), 'PNG'),
        encoded(picture(100, 300), 'JPEG'),  # would be enlarged
        picture(300, 300),
        array(picture(300, 300, channels=1)),
    ],
)
def test_other_sources_have_exact_values(source):
    assert largest_difference(source) == 0


def test_fast_loading_refuses_the_same_sources(tmp_path, monkeypatch):
    data = encoded(picture(300, 400), 'JPEG')
    cut = encoded(picture(250, 250), 'JPEG')[:-999]
    monkeypatch.setattr(images, 'MAX_PIXELS', 300 * 400 - 1)
    for source, reason in (
        (data, 'expected at most'),
        (cut, 'cannot be read as an image'),
        (data[:3], 'cannot be read as an image'),
        (b'', 'cannot be read as an image'),
        (tmp_path / 'none.jpg', 'does not exist'),
        (np.zeros((300, 300, 4), np.uint8), 'expected'),
        (np.zeros((300, 300, 3), np.float32), 'expected'),
    ):
        with pytest.raises(SampleError, match=reason):
            load_image(source, 224, exact=False)


def test_fast_loading_of_jpeg_does_not_use_read_image(monkeypatch):
    """Otherwise the comparisons above would compare equal code."""
    monkeypatch.setattr(images, 'read_image', None)
    data = encoded(photo_like(300, 400), 'JPEG')
    assert load_image(data, 224, exact=False).shape == (3, 224, 224)
