# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""All JPEG codecs return the same pixels; the newest one is used."""

import io
import sys
import types
import warnings
from importlib import metadata

import numpy as np
import pytest
import torch
from PIL import Image

from minigpt4.images import jpeg_decoder


def jpeg(mode='RGB', **options):
    rng = np.random.default_rng(0)
    size = (12, 16) if mode == 'L' else (12, 16, len(mode))
    image = Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8), mode)
    buffer = io.BytesIO()
    image.resize((61, 47), Image.Resampling.BICUBIC).save(
        buffer, 'JPEG', **options
    )
    return buffer.getvalue()


def torchcodec():
    try:
        return jpeg_decoder.torchcodec_codec()
    except (ImportError, OSError, RuntimeError) as error:
        pytest.skip(f'TorchCodec 0.16 is not installed ({error})')


def torchvision():
    try:
        return jpeg_decoder.torchvision_codec()
    except ImportError as error:
        pytest.skip(f'torchvision has no image codecs ({error})')


@pytest.mark.filterwarnings('ignore:The image decoding:DeprecationWarning')
@pytest.mark.parametrize('codec', [torchcodec, torchvision])
@pytest.mark.parametrize('mode', ['RGB', 'L', 'CMYK'])
@pytest.mark.parametrize(
    'options',
    [{}, {'progressive': True}, {'quality': 30}, {'subsampling': 0}],
)
def test_codecs_return_the_pixels_of_pillow(codec, mode, options):
    data = jpeg(mode, **options)
    expected = jpeg_decoder.decode_with_pillow(data)
    assert expected.shape == (3, 47, 61) and expected.dtype == torch.uint8
    assert torch.equal(codec()(data), expected)


@pytest.fixture
def installed(monkeypatch):
    """Simulate installed versions of packages."""

    def install(**versions):
        def version(package):
            if versions.get(package) is None:
                raise metadata.PackageNotFoundError(package)
            return versions[package]

        monkeypatch.setattr(metadata, 'version', version)
        jpeg_decoder.jpeg_codec.cache_clear()

    yield install
    jpeg_decoder.jpeg_codec.cache_clear()


def test_torchcodec_is_used_before_torchvision(installed, monkeypatch):
    decoders = types.ModuleType('torchcodec.decoders')
    decoders.decode_jpeg = lambda data: torch.zeros(3, 1, 1)
    package = types.ModuleType('torchcodec')
    package.decoders = decoders
    monkeypatch.setitem(sys.modules, 'torchcodec', package)
    monkeypatch.setitem(sys.modules, 'torchcodec.decoders', decoders)
    installed(torchcodec='0.16.0', torchvision='0.26.0')
    assert jpeg_decoder.decode_jpeg(jpeg()).shape == (3, 1, 1)
    installed(torchcodec='0.15.0', torchvision='0.26.0')
    assert jpeg_decoder.decode_jpeg(jpeg()).shape == (3, 47, 61)


def test_torchcodec_that_cannot_be_imported_is_not_used(
    installed, monkeypatch
):
    monkeypatch.setitem(sys.modules, 'torchcodec', None)
    installed(torchcodec='0.16.0', torchvision='0.29.0')
    assert jpeg_decoder.decode_jpeg(jpeg()).shape == (3, 47, 61)


def test_deprecated_codec_of_torchvision_is_not_used(installed, monkeypatch):
    monkeypatch.setitem(sys.modules, 'torchvision.io', None)
    installed(torchvision='0.29.0+cpu')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert jpeg_decoder.decode_jpeg(jpeg()).shape == (3, 47, 61)


@pytest.mark.parametrize('data', [b'', b'\xff\xd8\xff', jpeg()[:-99]])
@pytest.mark.parametrize(
    'versions', [{}, {'torchvision': '0.26.0'}, {'torchcodec': '0.17.0'}]
)
def test_damaged_file_gives_none(installed, versions, data):
    if 'torchcodec' in versions:
        torchcodec()
    installed(**versions)
    assert jpeg_decoder.decode_jpeg(data) is None
