# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Reading an image, whatever it is, to what the official pipeline gives."""

import io
import warnings
from os import PathLike

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

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

    Source: MiniGPT-4 ``processors/blip_processors.py`` @ d94738a; the same
    bits before its normalisation.
    """
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
