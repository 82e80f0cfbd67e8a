# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Write the data of both stages from photographs with captions."""

import json
import random
from collections.abc import Iterable
from pathlib import Path

from ..utils.atomic import replacing
from .describe_photo import describe
from .photo_folder import Photo, PhotoFolder

_TEST_SHARE = 0.1
_MAX_TEST = 200  # photographs


def write_photos(photos: PhotoFolder, out: Path, seed: int = 0) -> PhotoFolder:
    """Write the files that the configs of the small model read.

    ``captions_train.json`` and ``captions_test.json`` have COCO's layout,
    with absolute names of the images, which are not copied.
    ``descriptions_train.json`` has one description of each training
    photograph, made of its captions; see
    :func:`~minigpt4.datasets.describe_photo.describe`.

    Args:
        photos: The photographs. Without held-out ones a tenth of them, at
            most 200, is drawn.
        out: The folder to write into.
        seed: Seed of the draw.

    Returns:
        The photographs as they were divided.

    Raises:
        ValueError: There are fewer than two photographs.
        OSError: A file cannot be written.
    """
    photos = _divide(photos, seed)
    _write(out / 'captions_train.json', photos.train, None)
    _write(out / 'captions_test.json', photos.test, None)
    _write(
        out / 'descriptions_train.json',
        photos.train,
        (describe(photo.captions) for photo in photos.train),
    )
    return photos


def _divide(photos: PhotoFolder, seed: int) -> PhotoFolder:
    """Draw held-out photographs where there are none."""
    if photos.test:
        return photos
    if len(photos.train) < 2:
        raise ValueError(
            'one photograph was found; expected at least two, of which one '
            'is held out for the evaluation.'
        )
    number = min(_MAX_TEST, max(1, round(_TEST_SHARE * len(photos.train))))
    order = random.Random(f'held out {seed}').sample(
        range(len(photos.train)), len(photos.train)
    )
    held_out = set(order[:number])
    return photos._replace(
        train=[p for i, p in enumerate(photos.train) if i not in held_out],
        test=[p for i, p in enumerate(photos.train) if i in held_out],
    )


def _write(
    path: Path, photos: list[Photo], descriptions: Iterable[str] | None
) -> None:
    """Write a COCO caption file of the captions or of one text for each."""
    texts = (
        [photo.captions for photo in photos]
        if descriptions is None
        else [(description,) for description in descriptions]
    )
    annotations = [
        dict(image_id=photo.name, caption=caption)
        for photo, captions in zip(photos, texts, strict=True)
        for caption in captions
    ]
    content = dict(
        images=[dict(id=p.name, file_name=str(p.file)) for p in photos],
        annotations=[
            dict(id=number, **annotation)
            for number, annotation in enumerate(annotations)
        ],
    )
    with replacing(path) as temporary:
        temporary.write_text(
            json.dumps(content, ensure_ascii=False, indent=1), 'utf-8'
        )
