# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Reference captions, found by the different ids of one image."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from ..images.image_ids import id_forms, image_id
from ..utils.atomic import write_atomically
from ..utils.errors import printable
from ..utils.ids import id_key_or_none
from ..utils.json_files import read_json
from .captioned_images import read_captions_by_name

# of a result folder: the references of each caption
REFERENCES_FILE = 'references.json'


class ImageReferences(NamedTuple):
    """The references of a caption.

    Attributes:
        image: The key of its image in :attr:`CaptionReferences.captions`.
        captions: The reference captions, one at least.
    """

    image: str
    captions: list[str]


class CaptionReferences:
    """The reference captions of a file.

    An image is found by its id in COCO's table of images, else by its name
    in the file, an absolute path or the last part without suffix, else by
    the number in a name of COCO (:func:`~minigpt4.images.image_ids.id_forms`).
    ``id in references`` states whether it is found as it is.

    Args:
        annotations: A file of any layout of
            :func:`~.captioned_images.read_captioned_images`.

    Attributes:
        captions: The captions of each image, by one of its ids.
        invalid: Error of each record that cannot be used.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It has no valid record.
    """

    def __init__(self, annotations: Path) -> None:
        by_name, self.invalid, table = read_captions_by_name(annotations)
        table_ids = {
            name: id_ for id_, name in (table or {}).items() if name in by_name
        }
        self.captions: dict[str, list[str]] = {}
        self._ids: dict[str, str] = {}
        # an id of two images finds none of them
        kinds: tuple[dict[str, set[str]], ...] = ({}, {}, {})
        for name, captions in by_name.items():
            id_ = table_ids.get(name) or name
            self.captions[id_] = [caption.text for caption in captions]
            for kind, other in zip(kinds, _ids_of(name), strict=False):
                kind.setdefault(other, set()).add(id_)
        for kind in kinds:
            for other, ids in kind.items():
                if len(ids) == 1:
                    self._ids.setdefault(other, *ids)
        for id_, name in (table or {}).items():
            if name in table_ids:
                self._ids[id_] = table_ids[name]

    def find(self, id_: int | str) -> str | None:
        """The key of an image in :attr:`captions`; None if it has none."""
        forms = id_forms(id_key_or_none(id_) or '')
        return next((self._ids[f] for f in forms if f in self._ids), None)

    def find_file(self, path: str) -> str | None:
        """The key of an image file in :attr:`captions`, or None."""
        return self.find(image_id(path, self))

    def __contains__(self, id_: object) -> bool:
        return id_key_or_none(id_) in self._ids

    def of_rows(
        self, rows: Sequence[Mapping[str, Any]]
    ) -> dict[str, ImageReferences]:
        """The references of captions, by the text of their ``image_id``."""
        ids = dict.fromkeys(str(row['image_id']) for row in rows)
        found = {id_: self.find(id_) for id_ in ids}
        return {
            id_: ImageReferences(key, self.captions[key])
            for id_, key in found.items()
            if key is not None
        }

    def digest(self) -> str:
        """Digest ids and captions: 16 hexadecimal digits."""
        content = json.dumps(sorted(self.captions.items()))
        return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()


def write_references(
    folder: Path, references: Mapping[str, ImageReferences]
) -> None:
    """Store the references of the captions of a result folder.

    Raises:
        OSError: The file cannot be written.
    """
    content = {id_: found._asdict() for id_, found in references.items()}
    text = json.dumps(content, ensure_ascii=False) + '\n'
    write_atomically(
        folder / REFERENCES_FILE, text.encode(errors='backslashreplace')
    )


def read_references(path: Path) -> dict[str, ImageReferences]:
    """Read the references of the captions of a result folder.

    Raises:
        ValueError: The file has another content.
        OSError: It cannot be read.
    """
    again = (
        'the command that made the folder writes it again, without '
        'captioning again'
    )
    try:
        content = read_json(path, 'the references of captions')
    except ValueError as error:
        raise ValueError(
            f'{str(error).removesuffix(".")}; {again}.'
        ) from error
    try:
        found = {
            id_: ImageReferences(**value) for id_, value in content.items()
        }
    except (TypeError, AttributeError):
        found = {'': ImageReferences('', [])}
    for id_, (image, captions) in found.items():
        if not (
            isinstance(image, str)
            and isinstance(captions, list)
            and captions
            and all(isinstance(text, str) for text in captions)
        ):
            name = f' of image {printable(id_)}' if id_ else ''
            raise ValueError(
                f'{path} has no reference captions{name}; {again}.'
            )
    return found


def _ids_of(name: str) -> Iterator[str]:
    """The ids of an image by its name, the most certain one first."""
    yield name
    if not os.path.isabs(name):
        yield PurePath(name).stem
        yield image_id(name, ())
