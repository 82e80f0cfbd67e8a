# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Read the images of a server's requests, with limits.

An image is a ``data:`` URL, a file below a folder that the operator named,
or an http(s) URL (``fetch.py``).
"""

import asyncio
import base64
import binascii
import io
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from PIL import Image

from ..utils.regular_files import open_regular
from ..utils.short_text import shorten
from ..utils.threads import DaemonThreads
from .errors import ImageError, too_large
from .fetch import USE_DATA_URL, ImageFetcher
from .formats import REQUEST_FORMATS
from .read import SampleError, read_image

_MAX_FETCHES = 128  # concurrent downloads
_MAX_READS = 16  # concurrent reads of files and decodings of data URLs
_SMALL_URL = 2**16  # characters of a data URL that is decoded without a thread


@dataclass(frozen=True)
class ImageLimits:
    """The limits of one image.

    Attributes:
        bytes: The maximum number of bytes of its file.
        pixels: The maximum number of pixels, checked before decoding.
        seconds: The maximum time of a download, look-ups and redirects
            included, and of a read from a folder.
    """

    bytes: int = 20 * 2**20
    pixels: int = 25_000_000
    seconds: float = 10.0


class ImageSources:
    """Reads and decodes the images of requests.

    Args:
        limits: The limits of one image.
        folder: The folder of allowed ``file:`` URLs; None allows none.
        hosts: The only hosts to download from; their addresses may be
            private. An empty collection allows none; None allows every host
            whose addresses are all public.

    Raises:
        NotADirectoryError: ``folder`` is not a folder.
    """

    def __init__(
        self,
        limits: ImageLimits | None = None,
        folder: str | Path | None = None,
        hosts: Collection[str] | None = None,
    ) -> None:
        self.limits = limits or ImageLimits()
        self.folder = None if folder is None else Path(folder).resolve()
        if self.folder is not None and not self.folder.is_dir():
            raise NotADirectoryError(
                f'{folder} is no folder; name the folder of the images that '
                'clients may use.'
            )
        self._fetcher = ImageFetcher(
            self.limits.bytes, self.limits.seconds, hosts
        )
        self._fetches = asyncio.Semaphore(_MAX_FETCHES)
        self._reads = asyncio.Semaphore(_MAX_READS)
        # more than _MAX_READS: a read from a slow disk outlives its time-out
        self._threads = DaemonThreads('minigpt4-files', 4 * _MAX_READS)

    async def read(self, url: str) -> bytes:
        """Read the file at a URL.

        Raises:
            ImageError: It is refused, too large, too slow or unavailable.
        """
        scheme = url[:8].partition(':')[0].lower()
        if scheme == 'data':
            if len(url) <= _SMALL_URL:
                return self._decode_data_url(url)
            return await self._in_thread(self._decode_data_url, url)
        if scheme in ('http', 'https'):
            async with self._fetches:
                return await self._fetcher.fetch(url)
        if scheme == 'file':
            return await self._in_thread(self._read_file, url)
        raise ImageError(
            f'the image {shorten(url)} is not a supported URL',
            'expected data:image/...;base64,..., http:// or https://',
        )

    async def _in_thread(
        self, read: Callable[[str], bytes], url: str
    ) -> bytes:
        """Read a URL in a thread, in limited time."""
        async with self._reads:
            try:
                return await asyncio.wait_for(
                    self._threads.run(read, url), self.limits.seconds
                )
            except asyncio.TimeoutError:
                raise ImageError(
                    f'{shorten(url)} was not read within '
                    f'{self.limits.seconds:g} seconds',
                    'try again later',
                ) from None
            except OSError as error:
                raise ImageError(
                    f'{shorten(url)} cannot be read ({error})'
                ) from error

    def decode(self, data: bytes) -> Image.Image:
        """Decode an image file to RGB.

        Args:
            data: The bytes of the file.

        Raises:
            ImageError: It is not an image, is damaged, or has too many
                pixels.
        """
        Image.init()  # formats with an optional library may be missing
        formats = [name for name in REQUEST_FORMATS if name in Image.OPEN]
        try:
            image = Image.open(io.BytesIO(data), formats=formats)
        except Image.DecompressionBombError as error:
            raise ImageError(
                f'the image has more than {self.limits.pixels:,} pixels',
                'send a smaller image',
            ) from error
        except Exception as error:  # many types, for damaged files
            raise ImageError(
                f'the image ({len(data):,} bytes) cannot be read',
                f'expected a complete file of {", ".join(REQUEST_FORMATS)}',
            ) from error
        if image.width * image.height > self.limits.pixels:
            raise ImageError(
                f'the image has {image.width} x {image.height} pixels; at '
                f'most {self.limits.pixels:,} are allowed',
                'send a smaller image',
            )
        try:
            return read_image(image)
        except SampleError as error:
            reason, _, hint = str(error).rstrip('.').partition('; ')
            raise ImageError(reason, hint) from error

    def _decode_data_url(self, url: str) -> bytes:
        """Decode the bytes of a data URL."""
        head, comma, body = url.partition(',')
        if not comma or not head.lower().endswith(';base64'):
            raise ImageError(
                f'the data URL {shorten(url)} is not base64',
                'expected data:image/png;base64,... or the like',
            )
        if len(body) * 3 // 4 > self.limits.bytes + 2:
            raise too_large(
                'the data URL', len(body) * 3 // 4, self.limits.bytes
            )
        try:
            # base64 tools wrap lines after 76 characters
            body = body.replace('\n', '').replace('\r', '')
            if len(body) % 4 > 1:  # some clients omit the padding
                body += '=' * (-len(body) % 4)
            data = base64.b64decode(body, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ImageError(
                f'the base64 of a data URL is broken ({error})',
                "encode the image's bytes again",
            ) from error
        if not data:
            raise ImageError(
                'a data URL has no bytes',
                "put the image's base64 after the comma",
            )
        return data

    def _read_file(self, url: str) -> bytes:
        """Read a file below the folder."""
        if self.folder is None:
            raise ImageError(
                'file: URLs are not allowed',
                f'{USE_DATA_URL}, or start the server with --images-from '
                'FOLDER',
            )
        # one message for all causes: it must not reveal which files exist
        refused = ImageError(
            f'{shorten(url)} is not a file that may be read',
            'expected a file below the folder of --images-from',
        )
        try:
            parts = urlsplit(url)
            path = (self.folder / unquote(parts.path)).resolve()
            if parts.netloc or not path.is_relative_to(self.folder):
                raise refused
            with open_regular(path) as file:
                data = file.read(self.limits.bytes + 1)
            if len(data) > self.limits.bytes:
                raise too_large(shorten(url), len(data), self.limits.bytes)
            return data
        except ImageError:
            raise
        except (OSError, RuntimeError, ValueError) as error:
            raise refused from error
