# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Load the images of requests as tensors; recent ones are cached."""

import asyncio
import hashlib
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

from torch import Tensor

from ...images.errors import ImageError
from ...images.read import to_tensor
from ...images.request_images import ImageSources
from .errors import ApiError

_MAX_CACHED = 128  # images


class ImageLoader:
    """Loads the images of requests as tensors.

    Args:
        sources: Reads and decodes images.
        image_size: The side of a tensor in pixels.
    """

    def __init__(self, sources: ImageSources, image_size: int) -> None:
        self.sources = sources
        self.image_size = image_size
        self._cache: OrderedDict[bytes, Tensor] = OrderedDict()
        # two threads: a large image takes much memory while it is decoded
        self._decoders = ThreadPoolExecutor(2, 'minigpt4-images')
        self._hashers = ThreadPoolExecutor(2, 'minigpt4-hashers')

    async def load(self, urls: list[str]) -> list[Tensor]:
        """Load images at the same time.

        Args:
            urls: The URLs of the images.

        Returns:
            ``(3, H, W)`` uint8 for each image, in their order.

        Raises:
            ApiError: 400 if an image is refused or cannot be read.
        """
        tasks = [
            asyncio.ensure_future(self._load(url, number, len(urls)))
            for number, url in enumerate(urls, 1)
        ]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _load(self, url: str, number: int, count: int) -> Tensor:
        """Load one image of a request."""
        loop = asyncio.get_running_loop()
        try:
            data = await self.sources.read(url)
            key = await loop.run_in_executor(self._hashers, _digest, data)
            tensor = self._cache.get(key)
            if tensor is None:
                tensor = await loop.run_in_executor(
                    self._decoders, self._decode, data
                )
        except ImageError as error:
            which = f'image {number} of {count}: ' if count > 1 else ''
            raise ApiError(
                400, which + str(error), 'messages', 'invalid_image'
            ) from error
        self._cache[key] = tensor
        self._cache.move_to_end(key)
        if len(self._cache) > _MAX_CACHED:
            self._cache.popitem(last=False)
        return tensor

    def _decode(self, data: bytes) -> Tensor:
        return to_tensor(self.sources.decode(data), self.image_size)


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data).digest()
