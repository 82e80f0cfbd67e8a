# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Images of requests as tensors."""

import asyncio
import base64
import io

import pytest
from PIL import Image

pytest.importorskip('httpcore', reason='needs minigpt4[serve]')
pytest.importorskip('starlette', reason='needs minigpt4[serve]')

from minigpt4.images.request_images import ImageSources
from minigpt4.serving.http.errors import ApiError
from minigpt4.serving.http.image_loader import ImageLoader


class CountingSources(ImageSources):
    """Counts the images that are decoded."""

    decoded = 0

    def decode(self, data: bytes) -> Image.Image:
        self.decoded += 1
        return super().decode(data)


def data_url(color: tuple[int, int, int]) -> str:
    buffer = io.BytesIO()
    Image.new('RGB', (8, 8), color).save(buffer, 'PNG')
    return (
        'data:image/png;base64,' + base64.b64encode(buffer.getvalue()).decode()
    )


def test_images_are_loaded_in_order():
    loader = ImageLoader(ImageSources(), 16)
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    tensors = asyncio.run(loader.load([data_url(c) for c in colors]))
    assert [tuple(t[:, 0, 0].tolist()) for t in tensors] == colors
    assert all(t.shape == (3, 16, 16) for t in tensors)
    assert asyncio.run(loader.load([])) == []


def test_an_image_is_decoded_once():
    sources = CountingSources()
    loader = ImageLoader(sources, 16)
    for _ in range(3):
        asyncio.run(loader.load([data_url((1, 2, 3))]))
    assert sources.decoded == 1


def test_the_cache_has_a_limit():
    sources = CountingSources()
    loader = ImageLoader(sources, 1)
    urls = [data_url((i, 0, 0)) for i in range(130)]
    asyncio.run(loader.load(urls))
    asyncio.run(loader.load(urls[-1:]))
    assert sources.decoded == 130
    asyncio.run(loader.load(urls))
    assert sources.decoded > 130  # the first images were dropped


def test_an_error_names_the_image():
    loader = ImageLoader(ImageSources(), 16)
    with pytest.raises(ApiError, match='^image 2 of 2: ') as caught:
        asyncio.run(loader.load([data_url((0, 0, 0)), 'ftp://a']))
    assert caught.value.status == 400
    assert caught.value.code == 'invalid_image'
    with pytest.raises(ApiError, match='^the image ftp://a is not'):
        asyncio.run(loader.load(['ftp://a']))
