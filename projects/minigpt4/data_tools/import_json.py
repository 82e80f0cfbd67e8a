# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Write imported records as the JSON of stage 2."""

import json
import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from ..utils.atomic import make_folder, replacing, write_atomically
from ..utils.errors import one_line
from ..utils.regular_files import NotRegularFileError, open_regular
from .image_bytes import file_stem, suffix_of
from .import_spool import Image, Spool
from .skipped_items import UNREADABLE, SkippedItems


def split_files(out: Path, name: str, splits: Sequence[str]) -> list[Path]:
    """The files of the splits.

    The first has the name itself. In a name with ``train`` the other splits
    replace it, else they follow the name.

    Args:
        out: The folder.
        name: The name without suffix.
        splits: Names of the splits, ``'train'`` first.
    """
    files = [out / f'{name}.json']
    for split in splits[1:]:
        other = name.replace('train', split)
        files.append(
            out / f'{other if other != name else f"{name}_{split}"}.json'
        )
    return files


def write_json(
    spool: Spool,
    split_of: Sequence[int],
    files: Sequence[Path],
    skipped: SkippedItems,
    copy: bool = False,
) -> list[int]:
    """Write a file of records for each split.

    Each file is a list with a record on each line. All files appear at the
    end, or none.

    Args:
        spool: The records.
        split_of: The split of each record; -1 for none.
        files: The file of each split.
        skipped: Reports images that cannot be copied.
        copy: Whether all images are copied into ``image`` next to the files
            and named relative to it. Otherwise their names are absolute, and
            only embedded images are written.

    Returns:
        Number of records of each split.

    Raises:
        OSError: A file cannot be written, e.g. on a full disk.
    """
    folder = files[0].parent / 'image'
    used = {
        i
        for number, split in enumerate(split_of)
        if split >= 0
        for i in spool.images_of(number)
    }
    names, problems = _image_names(spool, folder, used, copy)
    counts = [0] * len(files)
    with ExitStack() as stack:
        outputs = [
            stack.enter_context(
                open(stack.enter_context(replacing(path)), 'wb')
            )
            for path in files
        ]
        for number, body in enumerate(spool.bodies()):
            split = split_of[number]
            if split < 0:
                continue
            images = spool.images_of(number)
            bad = next((i for i in images if names[i] is None), None)
            if bad is not None:
                skipped.add(spool.item(number), UNREADABLE, problems[bad])
                continue
            output = outputs[split]
            output.write(b',\n' if counts[split] else b'[\n')
            output.write(_line([names[i] or '' for i in images], body))
            counts[split] += 1
        for output, count in zip(outputs, counts, strict=True):
            output.write(b'\n]\n' if count else b'[]\n')
            output.flush()
            os.fsync(output.fileno())
    return counts


def _line(images: list[str], body: bytes) -> bytes:
    if not images:
        return b'{' + body
    value = images[0] if len(images) == 1 else images
    # a file name with bytes that are not UTF-8 needs escapes
    return b'{"image": ' + json.dumps(value).encode() + b', ' + body


def _image_names(
    spool: Spool, folder: Path, used: set[int], copy: bool
) -> tuple[list[str | None], dict[int, str]]:
    """The names of the images in the JSON; writes those that are copied.

    Returns:
        The name of each image, None for one that cannot be used, and why.
    """
    names: list[str | None] = []
    problems: dict[int, str] = {}
    taken: set[str] = set()
    for index, image in enumerate(spool.images):
        if index not in used:
            names.append(None)
        elif image.offset < 0 and not copy:
            names.append(image.name)
        else:
            make_folder(folder)
            try:
                name = _copy(spool, image, folder, taken)
                names.append(name if copy else str(folder.absolute() / name))
            except ValueError as error:
                names.append(None)
                problems[index] = str(error)
    return names, problems


def _copy(spool: Spool, image: Image, folder: Path, taken: set[str]) -> str:
    """Write an image into a folder under a name that no other image has.

    Raises:
        ValueError: It cannot be read.
        OSError: It cannot be written.
    """
    if image.offset >= 0:
        data = spool.image_bytes(image)
        suffix = suffix_of(data)
        if suffix is None:
            raise ValueError(f'has an image that is no image ({image.name})')
    else:
        suffix = Path(image.name).suffix.lstrip('.')
    stem = file_stem(image.name)
    name, number = f'{stem}.{suffix}', 1
    while name.lower() in taken:  # some file systems ignore case
        number += 1
        name = f'{stem}-{number}.{suffix}'
    taken.add(name.lower())
    target = folder / name
    if image.offset >= 0:
        write_atomically(target, data)
        return name
    if target.exists() and os.path.samefile(target, image.name):
        return name  # fetched into this folder
    try:
        source = open_regular(image.name)
    except (OSError, NotRegularFileError) as error:
        raise ValueError(
            f'has an image that cannot be read ({one_line(error)})'
        ) from error
    with source, replacing(target) as temporary, open(temporary, 'wb') as file:
        shutil.copyfileobj(source, file, 1 << 20)
    return name
