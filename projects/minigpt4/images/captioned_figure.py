# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Draw images with captions; make file names from any text."""

import hashlib
import re
import textwrap

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor


def file_name(name: str, length: int = 80) -> str:
    """Convert a text to a file name of letters, digits, ``_``, ``-``, ``.``.

    A text with other characters, or a longer one, gets a suffix of 8 digits of
    its SHA-256, so that different texts have different names.

    Args:
        name: The text.
        length: Maximum length without the suffix.
    """
    safe = re.sub(r'[^A-Za-z0-9_.-]', '_', name)[:length]
    if safe == name:
        return name
    data = name.encode(errors='surrogatepass')
    return f'{safe}-{hashlib.sha256(data).hexdigest()[:8]}'


def captioned(
    image: 'Tensor | Image.Image', text: str, width: int = 240, line: int = 13
) -> np.ndarray:
    """Draw an image with its caption below.

    Args:
        image: ``(3, H, W)`` uint8, or a Pillow image.
        text: The caption; long lines are wrapped.
        width: Width of the image in pixels.
        line: Height of a text line in pixels.

    Returns:
        ``(H', width, 3)`` uint8, RGB.
    """
    if isinstance(image, Tensor):
        image = Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
    height = round(width * image.height / image.width)
    lines = [
        piece
        for paragraph in text.splitlines() or ['']
        for piece in textwrap.wrap(paragraph, width // 6 + 3) or ['']
    ]
    page = Image.new('RGB', (width, height + line * (len(lines) + 1)), 'white')
    page.paste(image.resize((width, height), Image.Resampling.BICUBIC), (0, 0))
    ImageDraw.Draw(page).multiline_text(
        (4, height + line // 2),
        '\n'.join(lines),
        fill='black',
        font=ImageFont.load_default(size=11),
        spacing=2,
    )
    return np.asarray(page)
