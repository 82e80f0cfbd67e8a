# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Small data sets for tests: images, shards."""

import io
import json
import tarfile
from pathlib import Path

import numpy
from PIL import Image


def noise(seed: int, width: int = 60, height: int = 40) -> Image.Image:
    """An image of smooth random colours."""
    rng = numpy.random.default_rng(seed)
    small = rng.integers(0, 256, (4, 6, 3), dtype=numpy.uint8)
    return Image.fromarray(small).resize((width, height))


def jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, 'JPEG')
    return buffer.getvalue()


def write_shard(path: Path, samples: dict[str, dict[str, bytes]]) -> Path:
    """Write a tar of samples: bytes by key and suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = 'w:gz' if path.suffix == '.gz' else 'w'
    with tarfile.open(path, mode) as tar:
        for key, files in samples.items():
            for suffix, data in files.items():
                info = tarfile.TarInfo(f'{key}.{suffix}')
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


def pair(seed: int, caption: str) -> dict[str, bytes]:
    return dict(
        jpg=jpeg(noise(seed)), json=json.dumps(dict(caption=caption)).encode()
    )
