# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Images of a folder with their reference captions, from a file of records."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from ..datasets.image_folder import ImageFolder
from ..datasets.parse_records import read_record
from ..datasets.record_files import read_record_file
from ..datasets.record_layouts import RecordError
from ..utils.errors import printable


@dataclass(frozen=True)
class ReferenceCaption:
    """A caption that a file gives for an image.

    Attributes:
        id: The record's id, or its number in the file.
        question: The question of the record; '' for a caption.
        text: The caption.
    """

    id: int | str
    question: str
    text: str


@dataclass
class CaptionedImage:
    """An image and its captions.

    Attributes:
        name: Name of the image in the records.
        file: Its path; the file may not exist.
        captions: In the order of the file, with single spaces and none at
            the ends.
    """

    name: str
    file: str
    captions: list[ReferenceCaption]


@dataclass
class CaptionedImages:
    """The images that a file of records describes.

    Attributes:
        images: Sorted by name.
        invalid: Error of each record that cannot be used.
        uncaptioned: Names of images in COCO's table without a caption.
    """

    images: list[CaptionedImage]
    invalid: list[str]
    uncaptioned: list[str]

    def digest(self) -> str:
        """Digest names and captions: 16 hexadecimal digits."""
        content = [
            [image.name, *((c.question, c.text) for c in image.captions)]
            for image in self.images
        ]
        return hashlib.blake2b(
            json.dumps(content).encode(), digest_size=8
        ).hexdigest()


def read_captioned_images(
    annotations: Path, folder: Path, limit: int | None = None
) -> CaptionedImages:
    """Read the captions of images.

    Args:
        annotations: A file of any layout of
            :class:`~minigpt4.datasets.instruction.InstructionDataset`, such
            as COCO's ``captions_*.json``. A record needs one image and one
            turn.
        folder: The folder of the images.
        limit: Use the first images by name; None for all.

    Raises:
        FileNotFoundError: The file or the folder does not exist.
        ValueError: The file has no valid record, or the folder has none of
            its images.
    """
    if not folder.is_dir():
        found = 'is not a folder' if folder.exists() else 'does not exist'
        raise FileNotFoundError(
            f'{folder} {found}; give the folder of the images as --images.'
        )
    captions, invalid, file_names = read_captions_by_name(annotations)
    finder = ImageFolder(folder)
    images = {
        name: CaptionedImage(name, finder.find(name), captions[name])
        for name in sorted(captions)
    }
    if not any(os.path.isfile(image.file) for image in images.values()):
        example = printable(min(images))
        raise ValueError(
            f'{folder} has none of the {len(images):,} images of '
            f'{annotations} (such as {example}); give the folder of these '
            'images as --images.'
        )
    listed = {name for name in (file_names or {}).values() if name}
    return CaptionedImages(
        [*images.values()][:limit],
        invalid,
        sorted(listed - images.keys()),
    )


def read_references(annotations: Path) -> dict[str, list[str]]:
    """Read the captions of each image, by its id.

    The id is the name in the records if it is an absolute path, else the last
    part of the name without its suffix (:mod:`minigpt4.images.image_ids`).

    Args:
        annotations: As for :func:`read_captioned_images`.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It has no valid record, or two names have one id.
    """
    captions, _, _ = read_captions_by_name(annotations)
    names: dict[str, str] = {}
    references: dict[str, list[str]] = {}
    for name, group in captions.items():
        id_ = name if os.path.isabs(name) else PurePath(name).stem
        if names.setdefault(id_, name) != name:
            raise ValueError(
                f'{annotations}: {printable(names[id_])} and '
                f'{printable(name)} are two images of the name '
                f'{printable(id_)}; expected different names, or absolute '
                'paths.'
            )
        references[id_] = [caption.text for caption in group]
    return references


def read_captions_by_name(
    annotations: Path,
) -> tuple[
    dict[str, list[ReferenceCaption]], list[str], dict[str, Any] | None
]:
    """Read the captions of each image, by its name in the records.

    Args:
        annotations: As for :func:`read_captioned_images`.

    Returns:
        The captions, the errors of invalid records, and the file names in
        COCO's table of images by image id; None without a table.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It has no valid record.
    """
    if not annotations.exists():
        raise FileNotFoundError(
            f'{annotations} does not exist; give the file of the captions.'
        )
    records, file_names = read_record_file(annotations)
    captions: dict[str, list[ReferenceCaption]] = {}
    invalid = []
    for number, item in enumerate(records):
        try:
            content = read_record(item, number, file_names).content
            names, turns = content['images'], content['turns']
            if len(names) != 1 or len(turns) != 1:
                raise RecordError(
                    f'has {len(names)} images and {len(turns)} turns; '
                    'expected one image with one caption'
                )
        except RecordError as error:
            invalid.append(
                printable(f'record {number} of {annotations.name} {error}')
            )
            continue
        (turn,) = turns
        # a space before the end token would raise the loss: 14 % of COCO's
        # captions end with one
        text = ' '.join((turn.answer or '').split())
        captions.setdefault(names[0], []).append(
            ReferenceCaption(content['id'], turn.question, text)
        )
    if not captions:
        raise ValueError(
            f'{annotations} has no caption that can be used ({invalid[0]}); '
            'expected captions with the names of their images.'
        )
    return captions, invalid, file_names
