# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Write the data of both stages from photographs with captions."""

import json
import random
from pathlib import Path

from ..utils.atomic import replacing
from .caption_descriptions import describe
from .photo_folder import Photo, PhotoFolder
from .skip_summary import counted

DESCRIPTIONS_FILE = 'descriptions_train.json'
_TEST_SHARE = 0.1
_MIN_TEST, _MAX_TEST = 2, 200  # photographs; match compares two


def write_photos(photos: PhotoFolder, out: Path, seed: int = 0) -> PhotoFolder:
    """Write the files that the configs of the small model read.

    ``captions_train.json`` and ``captions_test.json`` have COCO's layout,
    with absolute names of the images, which are not copied.
    ``descriptions_train.json`` has a description of each training photograph
    whose captions together give one; see
    :mod:`~minigpt4.datasets.caption_descriptions`.

    Args:
        photos: The photographs. With fewer than two held-out ones more are
            drawn, until a tenth of all, 2 to 200, is held out.
        out: The folder to write into.
        seed: Seed of the draw.

    Returns:
        The photographs as they were divided.

    Raises:
        ValueError: There are fewer than three photographs.
        OSError: A file cannot be written.
    """
    photos = _divide(photos, seed)
    described = [
        photo._replace(captions=(text,))
        for photo in photos.train
        if (text := describe(photo.captions)) is not None
    ]
    _write(out / 'captions_train.json', photos.train)
    _write(out / 'captions_test.json', photos.test)
    _write(out / DESCRIPTIONS_FILE, described)
    return photos


def _divide(photos: PhotoFolder, seed: int) -> PhotoFolder:
    """Draw held-out photographs where there are too few."""
    if len(photos.test) >= _MIN_TEST:
        return photos
    found = len(photos.train) + len(photos.test)
    if found <= _MIN_TEST:
        raise ValueError(
            f'{counted(found, "photograph")} can be used; expected at least '
            f'{_MIN_TEST + 1}, of which {_MIN_TEST} are held out for the '
            'evaluation; add photographs with captions (docs/small.md).'
        )
    number = min(_MAX_TEST, max(_MIN_TEST, round(_TEST_SHARE * found)))
    number -= len(photos.test)
    order = random.Random(f'held out {seed}').sample(
        range(len(photos.train)), len(photos.train)
    )
    held_out = set(order[:number])
    return photos._replace(
        train=[p for i, p in enumerate(photos.train) if i not in held_out],
        test=[
            *photos.test,
            *(p for i, p in enumerate(photos.train) if i in held_out),
        ],
    )


def _write(path: Path, photos: list[Photo]) -> None:
    """Write a COCO caption file.

    The path is the id: several photographs may have the same name.
    """
    annotations = [
        dict(image_id=str(photo.file), caption=caption)
        for photo in photos
        for caption in photo.captions
    ]
    content = dict(
        images=[dict(id=str(p.file), file_name=str(p.file)) for p in photos],
        annotations=[
            dict(id=number, **annotation)
            for number, annotation in enumerate(annotations)
        ],
    )
    with replacing(path) as temporary:
        temporary.write_text(
            json.dumps(content, ensure_ascii=False, indent=1), 'utf-8'
        )
