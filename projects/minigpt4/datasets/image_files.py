# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Finding the file of an image that a record names."""

import os
import unicodedata
from pathlib import Path
from urllib.parse import unquote

# in the order in which they are tried
SUFFIXES = (
    *('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.gif', '.tif', '.tiff'),
    *('.jfif', '.avif', '.heic'),
)


class ImageFolder:
    """Images below a folder, by the names that records give them.

    The first of these that exists is taken:

    1. the name as it is, below the folder unless it is absolute;
    2. the name with each of ``SUFFIXES``, in their order, unless it ends
       with one;
    3. the same with a suffix in capitals (``.JPG``) and with the name in
       another Unicode normalisation, as macOS writes it;
    4. all of that with ``/`` for each backslash, as Windows writes paths.

    Apart from its suffix a name is taken as it is written: ``a.jpg`` and
    ``A.jpg`` are different images.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: 'str | os.PathLike') -> None:
        self.folder = Path(folder)
        self._listings: dict[Path, dict[str, list[str]]] = {}

    def find(self, name: str) -> str:
        """The file of a name; where there is none, the path of the name."""
        if name.startswith('file://'):
            name = unquote(name.removeprefix('file://'))
        path = self.folder / name
        found = self._find(path)
        if found is None and '\\' in name:
            found = self._find(self.folder / name.replace('\\', '/'))
        return str(path if found is None else found)

    def _find(self, path: Path) -> Path | None:
        if os.path.isfile(path):
            return path
        if not path.name:
            return None
        whole = path.suffix.lower() in SUFFIXES
        suffixes = (path.suffix.lower(),) if whole else SUFFIXES
        if not whole:
            for suffix in SUFFIXES:
                with_suffix = path.with_name(path.name + suffix)
                if os.path.isfile(with_suffix):
                    return with_suffix
        stem = path.stem if whole else path.name
        listing = self._listing(path.parent)
        for suffix in suffixes:
            names = listing.get(_key(stem, suffix), [])
            # the stem as it is written before another normalisation of it
            for name in sorted(names, key=lambda n: not n.startswith(stem)):
                return path.with_name(name)
        return None

    def _listing(self, folder: Path) -> dict[str, list[str]]:
        """Names of a folder by stem and lower-case suffix, read once."""
        if folder not in self._listings:
            listing: dict[str, list[str]] = {}
            try:
                names = sorted(os.listdir(folder))
            except (OSError, ValueError):
                names = []  # the image is reported as missing
            for name in names:
                stem, suffix = os.path.splitext(name)
                if suffix.lower() in SUFFIXES:
                    listing.setdefault(_key(stem, suffix.lower()), []).append(
                        name
                    )
            self._listings[folder] = listing
        return self._listings[folder]


def _key(stem: str, suffix: str) -> str:
    return unicodedata.normalize('NFC', stem) + suffix
