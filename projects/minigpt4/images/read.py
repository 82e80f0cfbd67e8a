# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Reading an image, whatever it is, to what the official pipeline gives."""

import io
import os
import re
import warnings
from os import PathLike

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.nn import functional as F

from ..utils.errors import one_line, printable
from ..utils.fault_log import IMAGE, NO_IMAGE
from ..utils.regular_files import (
    FileTooLargeError,
    NotRegularFileError,
    read_regular,
)
from ..utils.time_limit import ReadTimeoutError, call_with_limit
from .formats import is_avif, is_heic, kind_of, register_heic
from .metadata import (
    orientation_of,
    raw_profile,
    split_jpeg,
    split_png,
    tiff_integer,
    tiff_orientation_at,
    transpose,
    transpose_tensor,
    without_avif_exif,
)
from .pixel_values import ValueRangeError, to_rgb

MAX_PIXELS = 178_956_970  # where Pillow itself warns of a bomb
MAX_FILE_BYTES = 1 << 29  # 512 MiB: so many pixels of 3 bytes
_EPS = (b'%!PS', b'\xc5\xd0\xd3\xc6')
_TIFF = (b'II*\0', b'MM\0*')
_NEW_SUBFILE_TYPE = 254
_LOSSLESS = (0xC3, 0xC7, 0xCB, 0xCF)  # JPEG frames


class SampleError(ValueError):
    """A sample that cannot be used; training leaves it out and counts it.

    Args:
        message: A sentence.
        reason: One of :data:`~minigpt4.utils.fault_log.REASONS`.
    """

    def __init__(self, message: str, reason: str = IMAGE) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple:
        return type(self), (str(self), self.reason)


def read_image(
    source: 'str | PathLike | bytes | np.ndarray | Image.Image', name: str = ''
) -> Image.Image:
    """Read an image as RGB.

    The EXIF orientation is applied, transparency is laid on white, grey of
    16 and 32 bits and of floats is scaled to 8 bits (see
    :func:`~minigpt4.images.pixel_values.value_range`), CMYK, LAB, palette
    and grey images are converted. Of several frames or pages the first one
    is read. Other metadata is not looked at. An opaque RGB image is what
    Pillow's ``convert('RGB')`` gives, bit for bit.

    Args:
        source: Path, encoded bytes, Pillow image, or an array ``(H, W, 3)``
            or ``(H, W)`` uint8, BGR as everywhere in OpenMMLab.
        name: What to call it in errors.

    Raises:
        SampleError: The image is missing, not a regular file, unreadable,
            truncated or huge, or its values fill no known range.
    """
    name = _name_of(source, name)
    if isinstance(source, np.ndarray):
        return _from_array(source, name)
    if isinstance(source, Image.Image):
        return _converted(source, None, b'', name)
    return _from_bytes(_bytes_of(source, name), name)


def read_file(path: 'str | PathLike', name: str = '') -> bytes:
    """Read the file of an image.

    Args:
        path: The file.
        name: What to call it in errors.

    Raises:
        SampleError: It is missing, cannot be read, is not a regular file, has
            more than ``MAX_FILE_BYTES``, or was not read within the time
            limit (:mod:`minigpt4.utils.time_limit`).
    """
    name = _name_of(path, name)
    try:
        return call_with_limit(
            lambda: read_regular(path, MAX_FILE_BYTES), name
        )
    except FileNotFoundError as error:
        raise SampleError(
            f'{name} does not exist; give the path of an image.', NO_IMAGE
        ) from error
    except (FileTooLargeError, NotRegularFileError) as error:
        reason = str(error).removeprefix(os.fspath(path))
        raise SampleError(f'{name}{reason}') from error
    except ReadTimeoutError as error:
        raise SampleError(str(error)) from error
    except (OSError, ValueError) as error:  # e.g. a name with a zero byte
        reason = getattr(error, 'strerror', None) or one_line(error)
        raise SampleError(
            f'{name} cannot be read ({reason}); give the path of an image.'
        ) from error


def _name_of(source: object, name: str) -> str:
    if not name and isinstance(source, (str, PathLike)):
        name = os.fspath(source)
    return printable(name or 'the image')


def _bytes_of(source: object, name: str) -> bytes:
    if isinstance(source, (str, PathLike)):
        return read_file(source, name)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source)
    if hasattr(source, 'read'):
        return source.read()
    raise SampleError(
        f'{name} is of type {type(source).__name__}; expected a path, '
        'encoded bytes, a Pillow image or an array.'
    )


def _from_bytes(data: bytes, name: str) -> Image.Image:
    """Decode a file of an image."""
    orientation = None
    decoded = data
    if data.startswith(b'\x89PNG\r\n'):
        decoded, orientation = split_png(data)
    elif jpeg := split_jpeg(data):
        decoded, orientation = jpeg.data, jpeg.orientation
    elif data[:4] in _TIFF and data[8:10] != b'CR':
        decoded, orientation = _split_tiff(data, name)
    elif is_avif(data):
        decoded = without_avif_exif(data)
    elif is_heic(data):
        register_heic()
    elif data.startswith(_EPS) or not data:
        # Pillow would run Ghostscript
        raise _unreadable(name, *kind_of(data))
    return _converted(io.BytesIO(decoded), orientation, data, name)


def _split_tiff(data: bytes, name: str) -> tuple[bytes, int | None]:
    """Take the orientation away, so that Pillow does not apply it."""
    if (tiff_integer(data, _NEW_SUBFILE_TYPE) or 0) & 1:
        raise _unreadable(
            name,
            'a camera RAW file or a TIFF whose first page is a preview',
            'convert it to JPEG or PNG',
        )
    place = tiff_orientation_at(data)
    if place is None:
        return data, None
    at, size, order = place
    return (
        data[:at] + (1).to_bytes(size, order) + data[at + size :],
        int.from_bytes(data[at : at + size], order),
    )


def _unreadable(name: str, kind: str, advice: str) -> SampleError:
    return SampleError(
        f'{name} cannot be read as an image: it is {kind}; {advice}.'
    )


def _converted(
    source: 'io.BytesIO | Image.Image',
    orientation: int | None,
    data: bytes,
    name: str,
) -> Image.Image:
    """Open, check, decode, convert and turn an image.

    Args:
        source: What Pillow opens, or a Pillow image.
        orientation: 1 to 8; None is looked for in what Pillow read.
        data: The whole file, for errors.
        name: For errors.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of bombs and of odd metadata
            image = (
                source
                if isinstance(source, Image.Image)
                else Image.open(source)
            )
            if not image.width * image.height:
                raise SampleError(
                    f'{name} is empty ({image.width} x {image.height} pixels).'
                )
            if image.width * image.height > MAX_PIXELS:
                raise SampleError(
                    f'{name} has {image.width} x {image.height} pixels; '
                    f'expected at most {MAX_PIXELS:,}; make it smaller.'
                )
            rgb = to_rgb(image)
            if orientation is None:
                orientation = _found_orientation(image)
            return transpose(rgb, orientation)
    except SampleError:
        raise
    except Image.DecompressionBombError as error:
        raise SampleError(
            f'{name} has too many pixels ({one_line(error)}); expected at '
            f'most {MAX_PIXELS:,}; make it smaller.'
        ) from error
    except ValueRangeError as error:
        raise SampleError(
            f'{name} cannot be read as an image: {error}; save it with 8 '
            'bits, e.g. as PNG.'
        ) from error
    except Exception as error:  # Pillow raises many kinds on broken files
        raise _undecodable(name, error, data) from error


def _found_orientation(image: Image.Image) -> int:
    """The orientation by what Pillow read, which may be broken in part."""
    if image.format == 'TIFF':  # Pillow applies it itself
        return 1
    exif, xmp = image.info.get('exif'), image.info.get('xmp')
    raw = image.info.get('Raw profile type exif')
    if isinstance(raw, str):
        exif = exif or raw_profile(raw.encode('ascii', 'replace'))
    if exif or xmp:
        return orientation_of(exif, xmp)
    return image.getexif().get(0x0112, 1)


def _undecodable(name: str, error: Exception, data: bytes) -> SampleError:
    """The sentence of an error that Pillow raised."""
    jpeg = split_jpeg(data)
    if jpeg and (jpeg.marker in _LOSSLESS or jpeg.bits != 8):
        return _unreadable(
            name,
            f'a JPEG image of {jpeg.bits} bits per sample'
            + (', without loss' if jpeg.marker in _LOSSLESS else ''),
            'save it as JPEG of 8 bits',
        )
    reason = re.sub(r'<[^<>]* at 0x[0-9a-fA-F]+>', 'the file', one_line(error))
    reason = f'{type(error).__name__}: {reason[:120]}'
    if 'truncated' in reason.lower():
        return _unreadable(
            name,
            'truncated (its last part is missing)',
            'copy or download it again',
        )
    if not data and not isinstance(error, UnidentifiedImageError):
        return SampleError(f'{name} cannot be read as an image ({reason}).')
    kind, advice = kind_of(data)
    if not isinstance(error, UnidentifiedImageError):
        kind = f'{kind} ({reason})'
    return _unreadable(name, kind, advice)


_ARRAY_ADVICE = {
    'f': 'convert it: (array * 255).astype("uint8") for values of 0 to 1',
    'b': 'convert it: array.astype("uint8") * 255',
}


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    grey = array.ndim == 2
    colour = array.ndim == 3 and array.shape[2] == 3
    if array.dtype != np.uint8 or not (grey or colour):
        advice = 'give one image, with the channels last'
        if array.ndim == 3 and array.shape[2] == 4:
            advice = 'leave the alpha channel out'
        advice = _ARRAY_ADVICE.get(array.dtype.kind, advice)
        raise SampleError(
            f'{name} is an array {array.shape} of {array.dtype}; expected '
            f'(H, W, 3) or (H, W) of uint8, BGR; {advice}.'
        )
    if array.size == 0:
        raise SampleError(f'{name} is an empty array {array.shape}.')
    if not grey:
        array = np.ascontiguousarray(array[..., ::-1])
    return Image.fromarray(array).convert('RGB')


def to_tensor(image: Image.Image, size: int) -> Tensor:
    """Resize to ``(3, size, size)`` uint8, bicubic, aspect not kept.

    The tensor is a view of rows of pixels, which the collator copies into
    the batch as they lie.

    Source: MiniGPT-4 ``processors/blip_processors.py`` @ d94738a; the same
    bits before its normalisation.
    """
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def load_image(
    source: 'str | PathLike | bytes | np.ndarray | Image.Image',
    size: int,
    exact: bool = True,
) -> Tensor:
    """Read and resize an image to ``(3, size, size)`` uint8, RGB.

    The tensor is a view of rows of pixels; see :func:`to_tensor`.

    Args:
        source: What :func:`read_image` reads.
        size: Side in pixels.
        exact: Whether to give the bits of the official pipeline. If not,
            whole JPEG files and arrays that are not enlarged go through
            libjpeg and PyTorch without Pillow, whose resize takes 6 times as
            long. Measured: up to 9 of 100 values differ by 1, 1 of 80,000
            by 2.

    Raises:
        SampleError: The image is missing, unreadable, truncated or huge.
    """
    name = ''
    if isinstance(source, (str, PathLike)):
        name = _name_of(source, '')
        source = read_file(source)
    if not exact:
        pixels = _decoded(source, size)
        if pixels is not None:
            # rows of pixels, as libjpeg gives them (unless it had to rotate)
            # and as the fastest kernel wants them
            rows = pixels.permute(1, 2, 0).contiguous()[None]
            pixels = rows.permute(0, 3, 1, 2)
            if pixels.shape[2:] != (size, size):
                pixels = F.interpolate(
                    pixels, (size, size), mode='bicubic', antialias=True
                )
            return pixels[0]
    return to_tensor(read_image(source, name), size)


def _decoded(source: object, size: int) -> Tensor | None:
    """``(3, H, W)`` uint8 of a JPEG or an array that is not enlarged.

    None is left to Pillow.
    """
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.shape[2:] != (3,):
            return None
        if min(source.shape) < 1 or min(source.shape[:2]) < size:
            return None
        rgb = np.ascontiguousarray(source[..., ::-1])
        return torch.from_numpy(rgb).permute(2, 0, 1)
    jpeg = split_jpeg(source) if isinstance(source, bytes) else None
    if (
        jpeg is None
        or min(jpeg.height, jpeg.width) < size
        or jpeg.height * jpeg.width >= MAX_PIXELS
    ):
        return None
    # imported where used: torchvision loads torch._inductor (0.6 s)
    from torchvision.io import ImageReadMode, decode_jpeg

    data = torch.frombuffer(bytearray(jpeg.data), dtype=torch.uint8)
    try:
        pixels = decode_jpeg(data, ImageReadMode.RGB)
    except RuntimeError:
        return None
    return transpose_tensor(pixels, jpeg.orientation)
