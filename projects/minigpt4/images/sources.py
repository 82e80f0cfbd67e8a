# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The images that a request names, read with limits.

An image is a ``data:`` URL, a file below a folder that the operator opened,
or an address of the public web (``image_fetch.py``).
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

from ..datasets import SampleError
from ..utils.regular_files import open_regular
from ..utils.threads import DaemonThreads
from .fetch import ImageError, brief, fetch_picture, too_large
from .read import read_image

# Pillow's readers of common pictures; others call programs (EPS) or are rare
FORMATS = ('BMP', 'GIF', 'JPEG', 'PNG', 'TIFF', 'WEBP')
_FETCHES = 128  # connections to other hosts at once
_READS = 16  # files that are read, and data URLs that are decoded, at once
_INLINE = 2**16  # characters of a data URL that are decoded without a thread


@dataclass(frozen=True)
class ImageLimits:
    """What one image may cost.

    Attributes:
        bytes: The most bytes of its file.
        pixels: The most pixels, known before they are decoded.
        seconds: The longest that fetching it may take, names and redirects
            included.
    """

    bytes: int = 20 * 2**20
    pixels: int = 25_000_000
    seconds: float = 10.0


class ImageSources:
    """Reads the images of requests.

    Args:
        limits: What an image may cost.
        folder: The folder whose files may be named; None allows none.
        hosts: The only hosts to fetch from, which may then have private
            addresses as well; empty: fetch nowhere; None: from any host
            whose addresses are all public.
    """

    def __init__(
        self,
        limits: ImageLimits | None = None,
        folder: 'str | Path | None' = None,
        hosts: Collection[str] | None = None,
    ) -> None:
        self.limits = limits or ImageLimits()
        self.folder = None if folder is None else Path(folder).resolve()
        self.hosts = None if hosts is None else {h.lower() for h in hosts}
        if self.folder is not None and not self.folder.is_dir():
            raise NotADirectoryError(
                f'{folder} is no folder; name the folder whose pictures may '
                'be asked about.'
            )
        self._fetches = asyncio.Semaphore(_FETCHES)
        self._reads = asyncio.Semaphore(_READS)
        # more than _READS: a read from a slow disk continues after its time
        self._threads = DaemonThreads('minigpt4-files', 4 * _READS)

    async def bytes_of(self, url: str) -> bytes:
        """The file behind a URL.

        Raises:
            ImageError: It is refused, too large, too slow or not there.
        """
        kind = url[:8].partition(':')[0].lower()
        if kind == 'data':
            if len(url) <= _INLINE:
                return self._decoded(url)
            return await self._in_thread(self._decoded, url)
        if kind in ('http', 'https'):
            async with self._fetches:
                return await fetch_picture(
                    url, self.limits.bytes, self.limits.seconds, self.hosts
                )
        if kind == 'file':
            return await self._in_thread(self._file, url)
        raise ImageError(
            f'the image {brief(url)} is no URL that is read here; expected '
            'data:image/...;base64,..., http:// or https://.'
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
                    f'{brief(url)} was not read within '
                    f'{self.limits.seconds:g} seconds; try again later.'
                ) from None
            except OSError as error:
                raise ImageError(
                    f'{brief(url)} cannot be read ({error}).'
                ) from error

    def picture(self, data: bytes) -> Image.Image:
        """Decode a file to RGB.

        Raises:
            ImageError: It is no picture, is broken, or has too many pixels.
        """
        formats = [name for name in FORMATS if name in _readers()]
        try:
            image = Image.open(io.BytesIO(data), formats=formats)
        except Image.DecompressionBombError as error:
            raise ImageError(
                f'the image has more than {self.limits.pixels:,} pixels; '
                'make it smaller.'
            ) from error
        except Exception as error:  # of many kinds, on broken files
            raise ImageError(
                f'the image ({len(data):,} bytes) is none that can be read; '
                f'expected a whole file of {", ".join(FORMATS)}.'
            ) from error
        if image.width * image.height > self.limits.pixels:
            raise ImageError(
                f'the image has {image.width} x {image.height} pixels; at '
                f'most {self.limits.pixels:,} are allowed: make it smaller.'
            )
        try:
            return read_image(image)
        except SampleError as error:
            raise ImageError(str(error)) from error

    def _decoded(self, url: str) -> bytes:
        """The bytes of a data URL."""
        head, comma, body = url.partition(',')
        if not comma or not head.lower().endswith(';base64'):
            raise ImageError(
                f'the data URL {brief(url)} has no base64 part; expected '
                'data:image/png;base64,... or the like.'
            )
        if len(body) * 3 // 4 > self.limits.bytes + 2:
            raise too_large(
                'the data URL', len(body) * 3 // 4, self.limits.bytes
            )
        try:
            # as base64 prints it: lines of 76 characters
            body = body.replace('\n', '').replace('\r', '')
            if len(body) % 4 > 1:  # some clients leave the padding out
                body += '=' * (-len(body) % 4)
            data = base64.b64decode(body, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ImageError(
                f'the base64 of a data URL is broken ({error}); encode the '
                "picture's bytes anew."
            ) from error
        if not data:
            raise ImageError(
                "a data URL has no bytes; put the picture's base64 behind "
                'the comma.'
            )
        return data

    def _file(self, url: str) -> bytes:
        """The bytes of a file below the folder."""
        if self.folder is None:
            raise ImageError(
                'files of the server may not be named; send the picture as '
                'a data URL, or start the server with --images-from FOLDER.'
            )
        # the same words whatever lies there: nothing is told of other files
        refused = ImageError(
            f'{brief(url)} is no file that may be read; expected one below '
            'the folder of --images-from.'
        )
        try:
            parts = urlsplit(url)
            path = (self.folder / unquote(parts.path)).resolve()
            if parts.netloc or not path.is_relative_to(self.folder):
                raise refused
            with open_regular(path) as file:
                data = file.read(self.limits.bytes + 1)
            if len(data) > self.limits.bytes:
                raise too_large(brief(url), len(data), self.limits.bytes)
            return data
        except ImageError:
            raise
        except (OSError, RuntimeError, ValueError) as error:
            raise refused from error


def _readers() -> Collection[str]:
    """Pillow's formats; those with a library of their own may be absent."""
    Image.init()
    return Image.OPEN
