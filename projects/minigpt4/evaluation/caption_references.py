# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Reference captions, found by the different ids of one image."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path, PurePath

from ..images.image_ids import id_forms, image_id
from ..utils.ids import id_key_or_none
from .captioned_images import read_captions_by_name


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

    def digest(self) -> str:
        """Digest ids and captions: 16 hexadecimal digits."""
        content = json.dumps(sorted(self.captions.items()))
        return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()


def _ids_of(name: str) -> Iterator[str]:
    """The ids of an image by its name, the most certain one first."""
    yield name
    if not os.path.isabs(name):
        yield PurePath(name).stem
        yield image_id(name, ())
