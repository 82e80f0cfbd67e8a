# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Reading an image, whatever it is, to what the official pipeline gives."""

import io
import warnings
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F
from torchvision.io import ImageReadMode, decode_jpeg

MAX_PIXELS = 178_956_970  # where Pillow itself warns of a bomb


class SampleError(ValueError):
    """A sample that cannot be used; training leaves it out and counts it."""


def read_image(
    source: 'str | PathLike | bytes | np.ndarray | Image.Image', name: str = ''
) -> Image.Image:
    """Read an image as RGB.

    EXIF rotation is applied, transparency is laid on white, 16-bit grey is
    scaled to 8 bits, CMYK, palette and grey images are converted. An opaque
    RGB image is what Pillow's ``convert('RGB')`` gives, bit for bit.

    Args:
        source: Path, encoded bytes, Pillow image, or an array ``(H, W, 3)``
            or ``(H, W)`` uint8, BGR as everywhere in OpenMMLab.
        name: What to call it in errors.

    Raises:
        SampleError: The image is missing, unreadable, truncated or huge.
    """
    name = name or (
        str(source) if isinstance(source, (str, PathLike)) else 'the image'
    )
    if isinstance(source, np.ndarray):
        return _from_array(source, name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', Image.DecompressionBombWarning)
            if isinstance(source, Image.Image):
                image = source
            elif isinstance(source, bytes):
                image = Image.open(io.BytesIO(source))
            else:
                image = Image.open(source)
            if not image.width * image.height:
                raise SampleError(
                    f'{name} is empty ({image.width} x {image.height} pixels).'
                )
            if image.width * image.height > MAX_PIXELS:
                raise SampleError(
                    f'{name} has {image.width} x {image.height} pixels; '
                    f'expected at most {MAX_PIXELS:,}; make it smaller.'
                )
            return _to_rgb(ImageOps.exif_transpose(image))
    except SampleError:
        raise
    except FileNotFoundError as error:
        raise SampleError(
            f'{name} does not exist; give the path of an image.'
        ) from error
    except Exception as error:  # Pillow raises many kinds on broken files
        reason = str(error).splitlines()[0] if str(error) else ''
        raise SampleError(
            f'{name} cannot be read as an image ({type(error).__name__}: '
            f'{reason[:120]}); expected a whole JPEG, PNG, WebP ... file.'
        ) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith('I') or image.mode == 'F':
        values = np.asarray(image, dtype=np.float64)
        if image.mode.startswith('I;16') or values.max() > 255:
            values = values / 257
        return Image.fromarray(
            values.clip(0, 255).round().astype(np.uint8)
        ).convert('RGB')
    if image.mode in ('RGBA', 'LA', 'PA') or 'transparency' in image.info:
        image = image.convert('RGBA')
        white = Image.new('RGBA', image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert('RGB')
    return image.convert('RGB')


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    grey = array.ndim == 2
    colour = array.ndim == 3 and array.shape[2] == 3
    if array.dtype != np.uint8 or not (grey or colour):
        raise SampleError(
            f'{name} is an array {array.shape} of {array.dtype}; expected '
            '(H, W, 3) or (H, W) of uint8, BGR.'
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
    if not exact:
        pixels = _decoded(source)
        if pixels is not None and min(pixels.shape[1:]) >= size:
            # rows of pixels, as libjpeg gives them (unless it had to rotate)
            # and as the fastest kernel wants them
            rows = pixels.permute(1, 2, 0).contiguous()[None]
            pixels = rows.permute(0, 3, 1, 2)
            if pixels.shape[2:] != (size, size):
                pixels = F.interpolate(
                    pixels, (size, size), mode='bicubic', antialias=True
                )
            return pixels[0]
    return to_tensor(read_image(source), size)


def _decoded(source) -> Tensor | None:
    """``(3, H, W)`` uint8 of a JPEG or an array; None is left to Pillow."""
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.shape[2:] != (3,):
            return None
        rgb = np.ascontiguousarray(source[..., ::-1])
        return torch.from_numpy(rgb).permute(2, 0, 1)
    if isinstance(source, (str, PathLike)):
        try:
            source = Path(source).read_bytes()
        except OSError:
            return None
    if not isinstance(source, bytes) or not 0 < _jpeg_pixels(source) < (
        MAX_PIXELS
    ):
        return None
    data = torch.frombuffer(bytearray(source), dtype=torch.uint8)
    try:
        return decode_jpeg(
            data, ImageReadMode.RGB, apply_exif_orientation=True
        )
    except RuntimeError:
        return None


def _jpeg_pixels(data: bytes) -> int:
    """Pixels of a JPEG file by its header; 0 where it is none."""
    if data[:2] != b'\xff\xd8':
        return 0
    at = 2
    while data[at : at + 1] == b'\xff' and at + 9 <= len(data):
        marker = data[at + 1]
        # frame headers SOF0 to SOF15 without the tables DHT, JPG, DAC
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height = int.from_bytes(data[at + 5 : at + 7], 'big')
            width = int.from_bytes(data[at + 7 : at + 9], 'big')
            return height * width
        at += 2 + int.from_bytes(data[at + 2 : at + 4], 'big')
    return 0
