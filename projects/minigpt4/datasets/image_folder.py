# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Find the image file for the name in a record."""

import os
import unicodedata
from pathlib import Path
from urllib.parse import unquote

from ..images.formats import SUFFIXES


class ImageFolder:
    """Images below a folder, by the names in the records.

    The first existing file is used:

    1. the name itself, below the folder unless it is absolute;
    2. the name with each of ``images.formats.SUFFIXES``, in their order,
       unless it ends with one;
    3. the same with an upper-case suffix (``.JPG``) and with the name in
       another Unicode normalisation, as macOS writes it;
    4. all of these with ``/`` for each backslash, as Windows writes paths.

    Apart from its suffix a name is case sensitive: ``a.jpg`` and ``A.jpg``
    are different images.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: 'str | os.PathLike') -> None:
        self.folder = Path(folder)
        self._listings: dict[Path, dict[str, list[str]]] = {}

    def find(self, name: str) -> str:
        """Return the file of a name; the path of the name if none exists."""
        name = _without_scheme(name)
        path = self.folder / name
        file = self._find(path)
        if file is None and '\\' in name:
            file = self._find(self.folder / name.replace('\\', '/'))
        return str(path if file is None else file)

    def _find(self, path: Path) -> Path | None:
        if os.path.isfile(path):
            return path
        if not path.name:
            return None
        has_suffix = path.suffix.lower() in SUFFIXES
        suffixes = (path.suffix.lower(),) if has_suffix else SUFFIXES
        if not has_suffix:
            for suffix in SUFFIXES:
                with_suffix = path.with_name(path.name + suffix)
                if os.path.isfile(with_suffix):
                    return with_suffix
        stem = path.stem if has_suffix else path.name
        listing = self._list(path.parent)
        for suffix in suffixes:
            names = listing.get(_normalise(stem, suffix), [])
            # the stem itself before another normalisation of it
            for name in sorted(names, key=lambda n: not n.startswith(stem)):
                return path.with_name(name)
        return None

    def _list(self, folder: Path) -> dict[str, list[str]]:
        """Return the names in a folder by stem and suffix; cached."""
        if folder not in self._listings:
            listing: dict[str, list[str]] = {}
            try:
                names = sorted(os.listdir(folder))
            except (OSError, ValueError):
                names = []  # the image is reported as missing
            for name in names:
                stem, suffix = os.path.splitext(name)
                suffix = suffix.lower()
                if suffix in SUFFIXES:
                    listing.setdefault(_normalise(stem, suffix), []).append(
                        name
                    )
            self._listings[folder] = listing
        return self._listings[folder]


def leaves_folder(name: str) -> bool:
    """Whether ``..`` in a relative name leads out of its folder."""
    path = os.path.normpath(_without_scheme(name).replace('\\', '/'))
    return path.partition('/')[0] == '..'


def id_problem(field: str, name: str) -> str | None:
    """What is wrong with the id of an image that is its file's name.

    Args:
        field: The field of the id.
        name: The id.

    Returns:
        That ``..`` leads out of the folder of the images, as only a path may
        that a record has under ``image``; None if it does not.
    """
    if not leaves_folder(name):
        return None
    return (
        f'{field} is {name!r}, which leaves the folder of the images; '
        'expected the name of a file in it, or a path under image'
    )


def _without_scheme(name: str) -> str:
    if name.startswith('file://'):
        return unquote(name.removeprefix('file://'))
    return name


def _normalise(stem: str, suffix: str) -> str:
    return unicodedata.normalize('NFC', stem) + suffix
