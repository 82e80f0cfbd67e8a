# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""An image reaches the backbone as in the official code, bit for bit.

The official pipeline (MiniGPT-4 ``processors/blip_processors.py`` @ d94738a,
for training and for evaluation) is Pillow's ``convert('RGB')``, torchvision's
``Resize((224, 224), BICUBIC)``, ``ToTensor`` and ``Normalize``. It is written
here twice: with torchvision, which the official code calls, and only with
Pillow and torch, so that a change of torchvision is detected. There is no
tolerance: ``torch.equal``.
"""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from minigpt4.images.read import read_image, to_tensor
from minigpt4.models import ImageNormalizer
from minigpt4.models.packing import build_inputs
from minigpt4.prompts import TokenizedPrompt

# OpenAI CLIP's, as blip_processors.py has them; not imported from ours
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
SIZES = {
    'photo': (640, 427),
    'portrait': (333, 501),
    'small': (37, 21),
    'line': (300, 1),
    'pixel': (1, 1),
    'exact': (224, 224),
    'wide': (1500, 225),
}


def with_torchvision(image, size):
    return transforms.Compose(
        [
            transforms.Resize(
                (size, size), interpolation=InterpolationMode.BICUBIC
            ),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )(image.convert('RGB'))


def with_pillow(image, size):
    pixels = image.convert('RGB').resize((size, size), Image.BICUBIC)
    values = torch.from_numpy(np.array(pixels)).permute(2, 0, 1).float() / 255
    mean, std = (torch.tensor(x)[:, None, None] for x in (MEAN, STD))
    return (values - mean) / std


def with_ours(source, size=224):
    """The input of the backbone for a file's bytes, in a batch of two."""
    pixels = to_tensor(read_image(source), size)
    batch = ImageNormalizer()(
        dict(
            images=torch.stack([pixels.flip(-1), pixels]),
            inputs=build_inputs([TokenizedPrompt([1], [False])], 1),
        )
    )
    return batch['images'][1]


def draw(mode, size, seed=0):
    """Noise on a slope: every value, and edges that bicubic overshoots."""
    width, height = size
    generator = np.random.default_rng(seed)
    slope = np.linspace(0, 255, width)[None, :, None]
    noise = generator.integers(-60, 61, (height, width, 3))
    values = (slope + noise).clip(0, 255).astype(np.uint8)
    return Image.fromarray(values[..., :3]).convert(mode)


def encode(image, kind, **settings):
    out = io.BytesIO()
    image.save(out, kind, **settings)
    return out.getvalue()


def check(data, size=224):
    official = with_torchvision(Image.open(io.BytesIO(data)), size)
    again = with_pillow(Image.open(io.BytesIO(data)), size)
    ours = with_ours(data, size)
    assert ours.dtype == torch.float32 and ours.shape == (3, size, size)
    assert torch.equal(official, again)
    assert torch.equal(ours, official)


@pytest.mark.parametrize('size', SIZES.values(), ids=SIZES)
@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'WEBP'])
def test_rgb_images_have_equal_bits(kind, size):
    check(encode(draw('RGB', size), kind))


@pytest.mark.parametrize(
    ('mode', 'kind'),
    [
        ('L', 'PNG'),
        ('L', 'JPEG'),
        ('CMYK', 'JPEG'),
        ('CMYK', 'TIFF'),
        ('P', 'PNG'),
        ('1', 'PNG'),
        ('YCbCr', 'JPEG'),
    ],
)
def test_images_of_other_modes_have_equal_bits(mode, kind):
    check(encode(draw(mode, (301, 190)), kind))


def test_progressive_jpeg_of_the_nano_size_has_equal_bits():
    image = draw('RGB', (301, 190))
    check(encode(image, 'JPEG', quality=40, progressive=True))
    check(encode(image, 'PNG'), size=56)


def test_every_value_normalises_to_the_same_bits():
    values = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    check(encode(Image.fromarray(values), 'PNG'), size=16)


def test_opaque_alpha_channel_changes_nothing():
    image = draw('RGBA', (301, 190))
    image.putalpha(255)
    check(encode(image, 'PNG'))


def test_transparent_image_differs_on_purpose():
    """Ours is composited on white; the official code drops alpha.

    It is therefore not compared: the author of a transparent PNG expects the
    background behind it, not the colours of its invisible pixels.
    """
    image = Image.new('RGBA', (40, 40), (10, 20, 30, 0))
    ours = with_ours(encode(image, 'PNG'))
    official = with_torchvision(image, 224)
    white = with_torchvision(Image.new('RGB', (40, 40), 'white'), 224)
    assert torch.equal(ours, white)
    assert (ours - official).abs().max() > 3


def test_rotated_photo_differs_on_purpose():
    """Ours applies the EXIF orientation; the official code ignores it."""
    image = draw('RGB', (120, 80))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    data = encode(image, 'PNG', exif=exif)
    upright = with_torchvision(image.rotate(-90, expand=True), 224)
    assert torch.equal(with_ours(data), upright)
    assert not torch.equal(
        with_ours(data), with_torchvision(Image.open(io.BytesIO(data)), 224)
    )
