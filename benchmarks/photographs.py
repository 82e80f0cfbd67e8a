# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Synthetic photographs as JPEG files and tar shards, from a seed.

Overlapping discs of all sizes ("dead leaves") with shading and camera noise
have the statistics that determine the cost of decoding. The number of discs
gives files as large as real photographs of the same size and quality (7
photographs of scikit-learn and scikit-image: 15.5 kB at 224 x 224, 73 kB at
640 x 480).
"""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIZES = {'224': (224, 224), '640x480': (640, 480)}
_N_DISCS = {'224': 80, '640x480': 300}
_WORDS = 'a man woman dog on the street near two red cars with trees'.split()


def photograph(kind: str, seed: int, quality: int = 90) -> bytes:
    """Make one JPEG file.

    Args:
        kind: Key of ``SIZES``.
        seed: Seed of the image.
        quality: JPEG quality, 1 to 95.
    """
    rng = np.random.default_rng(seed)
    width, height = SIZES[kind]
    # drawn at twice the size, so that edges are soft after the resize
    image = Image.new('RGB', (2 * width, 2 * height))
    draw = ImageDraw.Draw(image)
    uniform = rng.random(_N_DISCS[kind])
    # radii of density r^-3 from 2 to 40 % of the width
    radii = (0.02**-2 * (1 - uniform) + 0.4**-2 * uniform) ** -0.5 * 2 * width
    for radius in np.sort(radii)[::-1]:
        x, y = rng.random(2) * image.size
        colour = rng.normal(125, 40) + rng.normal(0, 18, 3)
        draw.ellipse(
            (x - radius, y - radius, x + radius, y + radius),
            fill=tuple(int(c) for c in colour.clip(0, 255)),
        )
    pixels = np.asarray(
        image.resize((width, height), Image.Resampling.BICUBIC), np.float32
    )
    down = np.linspace(-1, 1, height)[:, None, None]
    across = np.linspace(-1, 1, width)[:, None]
    light = 1 + 0.25 * (down * rng.normal() + across * rng.normal())
    pixels = pixels * light + rng.normal(0, 1.5, (height, width, 1))
    out = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(
        out, 'JPEG', quality=quality
    )
    return out.getvalue()


def write_files(folder: Path, kind: str, number: int) -> list[Path]:
    """Write JPEG files into a folder.

    Args:
        folder: The folder; it is created.
        kind: Key of ``SIZES``.
        number: Number of files.

    Returns:
        Their paths.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for seed in range(number):
        paths.append(folder / f'{seed:05d}.jpg')
        paths[-1].write_bytes(photograph(kind, seed))
    return paths


def write_shards(files: list[Path], folder: Path, shards: int) -> None:
    """Write tar shards with captions, in the layout of img2dataset.

    Args:
        files: JPEG files; every shard has all of them.
        folder: The folder; it is created.
        shards: Number of shards.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(shards):
        with tarfile.open(folder / f'{number:05d}.tar', 'w') as tar:
            for position, file in enumerate(files):
                rng = np.random.default_rng((number, position))
                words = rng.choice(_WORDS, rng.integers(6, 15))
                caption = json.dumps(dict(caption=' '.join(words))).encode()
                key = f'{number:05d}{position:04d}'
                for suffix, data in (
                    ('jpg', file.read_bytes()),
                    ('json', caption),
                ):
                    entry = tarfile.TarInfo(f'{key}.{suffix}')
                    entry.size = len(data)
                    tar.addfile(entry, io.BytesIO(data))
