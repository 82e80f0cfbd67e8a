# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Read an image from any source as RGB, as a Pillow image or a tensor.

:func:`read_image` gives a Pillow image, :func:`load_image` the resized tensor
of the model. The values are those of the official pipeline.
"""

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
from ..utils.regular_files import (
    FileTooLargeError,
    NotRegularFileError,
    read_regular,
)
from ..utils.sample_errors import NO_IMAGE, SampleError
from ..utils.time_limit import ReadTimeoutError, call_with_limit
from .jpeg_decoder import decode_jpeg
from .metadata import (
    find_orientation,
    parse_raw_profile,
    split_jpeg,
    split_png,
    tiff_integer,
    tiff_orientation_field,
    transpose,
    transpose_tensor,
    without_avif_exif,
)
from .rgb import ValueRangeError, to_rgb
from .unreadable import describe_format, is_avif, is_heic, register_heic

MAX_PIXELS = 178_956_970  # Pillow's own limit for a decompression bomb
MAX_FILE_BYTES = 1 << 29  # 512 MiB, MAX_PIXELS of 3 bytes
_EPS = (b'%!PS', b'\xc5\xd0\xd3\xc6')
_TIFF = (b'II*\0', b'MM\0*')
_NEW_SUBFILE_TYPE = 254
_LOSSLESS_FRAMES = (0xC3, 0xC7, 0xCB, 0xCF)  # markers in JPEG


def read_image(
    source: 'str | PathLike | bytes | np.ndarray | Image.Image', name: str = ''
) -> Image.Image:
    """Read an image as RGB.

    The EXIF orientation is applied. Transparent pixels are composited over
    white. Grey of 16 and 32 bits and of floats is scaled to 8 bits (see
    :func:`~minigpt4.images.rgb.value_range`). CMYK, LAB, palette and grey
    images are converted. Of several frames or pages the first one is read.
    Other metadata is ignored. An opaque RGB image equals the result of
    Pillow's ``convert('RGB')`` bit for bit.

    Args:
        source: Path, encoded bytes, Pillow image, or an array ``(H, W, 3)``
            or ``(H, W)`` uint8, BGR as everywhere in OpenMMLab.
        name: Name of the image for error messages.

    Raises:
        SampleError: The image is missing, not a regular file, unreadable,
            truncated or too large, or the range of its values is unknown.
    """
    name = _name_of(source, name)
    if isinstance(source, np.ndarray):
        return _from_array(source, name)
    if isinstance(source, Image.Image):
        return _decode(source, None, b'', name)
    return _from_bytes(_bytes_of(source, name), name)


def read_file(path: 'str | PathLike', name: str = '') -> bytes:
    """Read the bytes of an image file.

    Args:
        path: The file.
        name: Name of the image for error messages.

    Raises:
        SampleError: The file is missing, cannot be read, is not a regular
            file, has more than ``MAX_FILE_BYTES``, or was not read within
            the time limit (:mod:`minigpt4.utils.time_limit`).
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
    """Decode the bytes of an image file."""
    orientation = None
    without_metadata = data
    if data.startswith(b'\x89PNG\r\n'):
        without_metadata, orientation = split_png(data)
    elif jpeg := split_jpeg(data):
        without_metadata, orientation = jpeg.data, jpeg.orientation
    elif data[:4] in _TIFF and data[8:10] != b'CR':
        without_metadata, orientation = _split_tiff(data, name)
    elif is_avif(data):
        without_metadata = without_avif_exif(data)
    elif is_heic(data):
        register_heic()
    elif data.startswith(_EPS) or not data:
        # Pillow would run Ghostscript for EPS
        raise _format_error(name, *describe_format(data))
    return _decode(io.BytesIO(without_metadata), orientation, data, name)


def _split_tiff(data: bytes, name: str) -> tuple[bytes, int | None]:
    """Reset the orientation of a TIFF, which Pillow would apply.

    Returns:
        The changed file, and the orientation that it had.

    Raises:
        SampleError: The first page is a preview of the image.
    """
    if (tiff_integer(data, _NEW_SUBFILE_TYPE) or 0) & 1:
        raise _format_error(
            name,
            'a camera RAW file or a TIFF whose first page is a preview',
            'convert it to JPEG or PNG',
        )
    field = tiff_orientation_field(data)
    if field is None:
        return data, None
    offset, size, order = field
    return (
        data[:offset] + (1).to_bytes(size, order) + data[offset + size :],
        int.from_bytes(data[offset : offset + size], order),
    )


def _format_error(name: str, kind: str, advice: str) -> SampleError:
    return SampleError(
        f'{name} cannot be read as an image: it is {kind}; {advice}.'
    )


def _decode(
    source: 'io.BytesIO | Image.Image',
    orientation: int | None,
    data: bytes,
    name: str,
) -> Image.Image:
    """Open, check and decode an image, convert it and apply the orientation.

    Args:
        source: A file that Pillow opens, or a Pillow image.
        orientation: 1 to 8; None to use the orientation that Pillow reads.
        data: The original file, for error messages.
        name: Name of the image for error messages.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns of large images and of invalid metadata
            warnings.simplefilter('ignore')
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
                orientation = _pillow_orientation(image)
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
    except Exception as error:  # Pillow raises many types on damaged files
        raise _decoding_error(name, error, data) from error


def _pillow_orientation(image: Image.Image) -> int:
    """Find the orientation in the metadata of a Pillow image."""
    if image.format == 'TIFF':  # Pillow has applied it
        return 1
    exif, xmp = image.info.get('exif'), image.info.get('xmp')
    raw = image.info.get('Raw profile type exif')
    if isinstance(raw, str):
        exif = exif or parse_raw_profile(raw.encode('ascii', 'replace'))
    if exif or xmp:
        return find_orientation(exif, xmp)
    return image.getexif().get(0x0112, 1)


def _decoding_error(name: str, error: Exception, data: bytes) -> SampleError:
    """Describe an error that Pillow raised."""
    jpeg = split_jpeg(data)
    if jpeg and (jpeg.marker in _LOSSLESS_FRAMES or jpeg.bits != 8):
        lossless = jpeg.marker in _LOSSLESS_FRAMES
        return _format_error(
            name,
            f'a JPEG image of {jpeg.bits} bits per sample'
            + (', lossless' if lossless else ''),
            'save it as JPEG of 8 bits',
        )
    reason = re.sub(r'<[^<>]* at 0x[0-9a-fA-F]+>', 'the file', one_line(error))
    reason = f'{type(error).__name__}: {reason[:120]}'
    if 'truncated' in reason.lower():
        return _format_error(
            name,
            'truncated (its end is missing)',
            'copy or download it again',
        )
    if not data and not isinstance(error, UnidentifiedImageError):
        return SampleError(f'{name} cannot be read as an image ({reason}).')
    kind, advice = describe_format(data)
    if not isinstance(error, UnidentifiedImageError):
        kind = f'{kind} ({reason})'
    return _format_error(name, kind, advice)


# by the kind of the array's type
_ARRAY_ADVICE = {
    'f': 'convert it: (array * 255).astype("uint8") for values of 0 to 1',
    'b': 'convert it: array.astype("uint8") * 255',
}


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    is_grey = array.ndim == 2
    is_colour = array.ndim == 3 and array.shape[2] == 3
    if array.dtype != np.uint8 or not (is_grey or is_colour):
        advice = 'give one image, with the channels last'
        if array.ndim == 3 and array.shape[2] == 4:
            advice = 'omit the alpha channel'
        advice = _ARRAY_ADVICE.get(array.dtype.kind, advice)
        raise SampleError(
            f'{name} is an array {array.shape} of {array.dtype}; expected '
            f'(H, W, 3) or (H, W) of uint8, BGR; {advice}.'
        )
    if array.size == 0:
        raise SampleError(f'{name} is an empty array {array.shape}.')
    if not is_grey:
        array = np.ascontiguousarray(array[..., ::-1])
    return Image.fromarray(array).convert('RGB')


def to_tensor(image: Image.Image, size: int) -> Tensor:
    """Resize an RGB image to ``(3, size, size)`` uint8.

    The resize is bicubic and does not keep the aspect ratio. The tensor is a
    view with channels last in memory, which the collator copies to the batch
    without reordering.

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

    The tensor is a view with channels last; see :func:`to_tensor`.

    Args:
        source: Any source of :func:`read_image`.
        size: Side in pixels.
        exact: Whether to return the bits of the official pipeline. If not,
            valid JPEG files and arrays that are not enlarged are resized by
            PyTorch instead of Pillow, whose resize takes 6 times as long.
            Measured: up to 9 of 100 values differ by 1, 1 of 80,000 by 2.

    Raises:
        SampleError: The image is missing, unreadable, truncated or too
            large.
    """
    name = ''
    if isinstance(source, (str, PathLike)):
        name = _name_of(source, '')
        source = read_file(source)
    if not exact:
        pixels = _decode_without_pillow(source, size)
        if pixels is not None:
            # Channels last in memory, as codecs return them unless a
            # rotation was applied: the fastest kernel of the resize expects
            # this layout.
            batch = pixels.permute(1, 2, 0).contiguous()[None]
            batch = batch.permute(0, 3, 1, 2)
            if batch.shape[2:] != (size, size):
                batch = F.interpolate(
                    batch, (size, size), mode='bicubic', antialias=True
                )
            return batch[0]
    return to_tensor(read_image(source, name), size)


def _decode_without_pillow(source: object, size: int) -> Tensor | None:
    """Decode a JPEG or convert an array that is not enlarged.

    Returns:
        ``(3, H, W)`` uint8; None for a source that :func:`read_image` must
        read or refuse.
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
    pixels = decode_jpeg(jpeg.data)
    return (
        None if pixels is None else transpose_tensor(pixels, jpeg.orientation)
    )
