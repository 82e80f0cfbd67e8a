# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The ids by which data about an image refer to it, and to its file.

Which values of JSON are ids, and as which text they are compared, is the
question of :mod:`minigpt4.utils.ids`. Here one image has several such texts:
its number, and the names of its file.
"""

import contextlib
import os
import re
from collections.abc import Container, Iterable
from functools import cached_property
from pathlib import Path, PurePath

from ..utils.ids import id_key_or_none
from .formats import SUFFIXES

_COCO_NAME = re.compile(r'(?:COCO_\w+_)?(\d{1,20})')


class ImageIds:
    """Find an image among known ids by any of its ids.

    An id is looked up as it is, then as an absolute path, then as the last
    part of a name without the suffix of an image, then as the number in a
    name of COCO. The known ids have these other forms too, apart from
    absolute paths. So 139, ``'139'``, ``'000000000139'``, ``'139.jpg'`` and
    ``'COCO_val2014_000000000139.jpg'`` are one image, whichever of them is
    known. A form that is no known id and belongs to two of them finds neither.

    Args:
        known: The known ids.
    """

    def __init__(self, known: Iterable[str]) -> None:
        self._known = frozenset(known)
        self._have_paths = any(map(os.path.isabs, self._known))

    @cached_property
    def _forms(self) -> dict[str, set[str]]:
        """The known ids of each form; most files need none of them."""
        forms: dict[str, set[str]] = {}
        for id_ in self._known:
            if not os.path.isabs(id_):
                for form in id_forms(id_):
                    forms.setdefault(form, set()).add(id_)
        return forms

    def find(self, id_: object) -> str | None:
        """The known id of an image; None if there is none.

        Args:
            id_: Its id, a text or a number, or its file.
        """
        value = os.fspath(id_) if isinstance(id_, os.PathLike) else id_
        text = id_key_or_none(value) or ''
        if text in self._known:
            return text
        if self._have_paths:
            # a text that no file name can be has no real path
            with contextlib.suppress(ValueError):
                for path in (os.path.abspath(text), os.path.realpath(text)):
                    if path in self._known:
                        return path
        for form in id_forms(text):
            if form in self._known:
                return form
            if len(found := self._forms.get(form, ())) == 1:
                return next(iter(found))
        return None


def id_forms(id_: str) -> list[str]:
    """The forms of an id, the most certain one first.

    Args:
        id_: The id, or the name of a file.

    Returns:
        The id, the last part without the suffix of an image, and the number
        in a name of COCO; without equal ones.
    """
    forms = [id_]
    stem = PurePath(id_)
    if stem.suffix.lower() in SUFFIXES:
        stem = stem.with_suffix('')
    forms.append(stem.name)
    if number := _COCO_NAME.fullmatch(stem.name):
        forms.append(str(int(number[1])))
    return list(dict.fromkeys(forms))


def image_id(path: 'str | Path', known: Container[str]) -> str:
    """The id of an image file.

    Args:
        path: The file.
        known: Ids. That of the file is its absolute path or its name without
            suffix if this is one of them, else the number in a name of COCO
            (``COCO_val2014_000000000139.jpg`` and ``000000000139.jpg`` are
            139), else its name without suffix.
    """
    for absolute in (os.path.abspath(path), os.path.realpath(path)):
        if absolute in known:
            return absolute
    stem = Path(path).stem
    number = _COCO_NAME.fullmatch(stem)
    if stem in known or not number:
        return stem
    return str(int(number[1]))
