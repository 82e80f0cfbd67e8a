# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 data import``: any common data set for stage 1 or 2."""

import hashlib
import json
import shutil
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..utils.atomic import make_folder, write_atomically
from ..utils.errors import printable
from ..utils.locks import FolderLock
from ..utils.sample_errors import SampleError
from .fetch_images import fetch_images
from .formats import FORMATS, Format, find_format
from .image_facts import require_imagehash
from .image_places import ImagePlaces
from .image_splits import NAMES, join_groups, split_images
from .import_duplicates import find_duplicates, hash_images
from .import_items import ReadOptions
from .import_json import split_files, write_json
from .import_shards import ShardProgress, write_shards
from .import_spool import Image, Spool
from .skipped_items import DUPLICATE, FETCH, UNREADABLE, SkippedItems
from .source_files import files_not_read

WORK = '.import'
SKIPPED_FILE, SUMMARY_FILE = 'skipped.jsonl', 'import.json'


class Outputs(NamedTuple):
    """The names of the splits and what is written for each.

    Attributes:
        splits: Names, ``'train'`` first.
        paths: The JSON file or the folder of shards of each.
    """

    splits: Sequence[str]
    paths: list[Path]


def list_formats() -> str:
    """The table of the formats, one on each line."""
    width = max(len(f.name) for f in FORMATS)
    return '\n'.join(
        f'{f.name:{width}}  {f.content}\n{"":{width}}  recognised by: '
        f'{f.recognised_by}'
        for f in FORMATS
    )


def run_import(args: Namespace) -> int:
    """Import a source.

    Args:
        args: The options of the command.

    Returns:
        The exit status: 1 where nothing was imported, or with ``--strict``
        where something was skipped.

    Raises:
        ValueError: The source has no known format, or an option does not
            fit.
        OSError: A file cannot be read or written.
    """
    _refuse_missing_folder(args.images)
    format_, source = find_format(args.source, args.format)
    if args.dedup is not None:
        require_imagehash()  # a missing library is reported before the work
    outputs = _outputs(args)
    not_read = files_not_read(args.source, source, format_.name, args.out)
    if not_read:
        more = f' and {len(not_read) - 8} more' if not_read[8:] else ''
        print(
            f'{args.source} is read as {format_.name}; not read: '
            f'{printable(", ".join(not_read[:8]))}{more}; import these '
            'one by one',
            file=sys.stderr,
        )
    make_folder(args.out)
    with FolderLock(args.out / WORK, 'import'):
        _refuse_existing(args, outputs)
        skipped = SkippedItems(args.out / WORK / SKIPPED_FILE, args.show)
        spool = Spool(
            args.out / WORK,
            ImagePlaces(source, args.images),
            skipped,
            captions_only=args.to == 'stage1',
        )
        try:
            status = _import(
                args, format_, source, outputs, spool, skipped, not_read
            )
        finally:
            spool.close()
    if status is not None:
        shutil.rmtree(args.out / WORK, ignore_errors=True)
    return status


def _import(
    args: Namespace,
    format_: Format,
    source: Path,
    outputs: Outputs,
    spool: Spool,
    skipped: SkippedItems,
    not_read: list[str],
) -> int:
    options = ReadOptions(
        args.image_column,
        args.text_column,
        args.questions,
        args.objects,
        args.whole_files,
    )
    spool.add_all(format_.read(source, options), args.limit)
    failed = spool.conflicts() | _fetch(args, spool)
    duplicates = {}
    if args.dedup is not None:
        duplicates = _find_duplicates(spool, failed, args.dedup)
    split_of = _divide(args, spool, failed, duplicates, skipped)
    if any(split >= 0 for split in split_of):
        counts = _write(args, format_, outputs, spool, split_of, skipped)
    else:
        counts = [0] * len(outputs.paths)
    skipped.close()
    (args.out / WORK / SKIPPED_FILE).replace(args.out / SKIPPED_FILE)
    summary = _summary(args, format_, source, outputs, counts, spool, skipped)
    summary['not_read'] = not_read
    write_atomically(
        args.out / SUMMARY_FILE, json.dumps(summary, indent=1).encode()
    )
    if not args.quiet:
        print(_describe(summary, outputs, args.out))
    if not sum(counts) or (args.strict and skipped.total):
        return 1
    return 0


def _refuse_missing_folder(images: Path | None) -> None:
    """Refuse a folder of images that does not exist: no image is in it.

    Raises:
        FileNotFoundError: It does not exist.
    """
    if images is not None and not images.is_dir():
        raise FileNotFoundError(
            f'--images {images} is no folder; expected the folder of the '
            'images.'
        )


def _outputs(args: Namespace) -> Outputs:
    splits = NAMES[len(args.split or (1,))]
    if args.to == 'stage2':
        return Outputs(splits, split_files(args.out, args.name, splits))
    if len(splits) == 1:
        return Outputs(splits, [args.out])
    return Outputs(splits, [args.out / split for split in splits])


def _refuse_existing(args: Namespace, outputs: Outputs) -> None:
    """Refuse to replace the data of another import, unless asked to.

    Raises:
        FileExistsError: There are data, which this import did not begin.
    """
    resumes = (args.out / WORK / 'progress').exists()
    for path in outputs.paths:
        found = [path] if path.is_file() else sorted(path.glob('*.tar'))
        if not found:
            continue
        if args.overwrite:
            for file in found if args.to == 'stage1' and not resumes else ():
                file.unlink()
        elif args.to == 'stage2' or not resumes:
            raise FileExistsError(
                f'{found[0]} exists; give another folder, or --overwrite to '
                'replace it.'
            )


def _digest(args: Namespace, spool: Spool) -> str:
    """The digest of what decides on the content of each shard."""
    digest = hashlib.sha256()
    digest.update(
        repr((args.split, args.seed, args.dedup, args.shard_size)).encode()
    )
    for number, body in enumerate(spool.bodies()):
        images = [spool.images[i].name for i in spool.images_of(number)]
        digest.update(body + repr(images).encode())
    return digest.hexdigest()


def _fetch(args: Namespace, spool: Spool) -> dict[int, tuple[str, str]]:
    """Fetch the images that are URLs.

    Returns:
        Kind and reason for each image that is not there.
    """
    urls = {
        i: image.name for i, image in enumerate(spool.images) if image.is_url
    }
    if not urls:
        return {}
    if not args.fetch:
        reason = 'has the URL of an image; fetch such images with --fetch'
        return {i: (FETCH, reason) for i in urls}
    folder = args.out / (WORK if args.to == 'stage1' else '') / 'image'
    make_folder(folder)
    found = fetch_images(
        urls.values(), folder, args.fetch_from or None, not args.quiet
    )
    failed = {}
    for i, url in urls.items():
        result = found[url]
        if isinstance(result, Path):
            spool.images[i] = Image(str(result.absolute()))
        else:
            failed[i] = (FETCH, f'has an image that was not fetched: {result}')
    return failed


def _find_duplicates(
    spool: Spool, failed: dict[int, tuple[str, str]], distance: int
) -> dict[int, int]:
    """Find near duplicates; images that cannot be read count as failed."""
    numbers = [i for i in range(len(spool.images)) if i not in failed]
    images = [spool.images[i] for i in numbers]
    hashes: list[int | None] = [None] * len(spool.images)
    sources = (
        spool.image_bytes(image) if image.offset >= 0 else image.name
        for image in images
    )
    for i, result in zip(numbers, hash_images(sources), strict=True):
        if isinstance(result, SampleError):
            reason = f'has an image that cannot be read: {result}'
            failed[i] = (UNREADABLE, reason)
        else:
            hashes[i] = result
    return find_duplicates(hashes, distance)


def _divide(
    args: Namespace,
    spool: Spool,
    failed: dict[int, tuple[str, str]],
    duplicates: dict[int, int],
    skipped: SkippedItems,
) -> list[int]:
    """The split of each record; -1 for one that is skipped."""
    num_images = len(spool.images)
    used = []
    split_of = [0] * len(spool)
    for number in range(len(spool)):
        for i in spool.images_of(number):
            if i in failed:
                skipped.add(spool.item(number), *failed[i])
            elif i in duplicates:
                kept = spool.images[duplicates[i]].name
                reason = f'has a near duplicate of the image {kept}'
                skipped.add(spool.item(number), DUPLICATE, reason)
            else:
                continue
            split_of[number] = -1
            break
        else:
            used.append(number)
    if not args.split:
        return split_of
    # a record without images is a group of its own
    groups = join_groups(num_images, spool.several())
    group_of = [
        groups[images[0]] if images else num_images + number
        for number in used
        for images in (spool.images_of(number),)
    ]
    names = sorted(set(group_of))
    splits = dict(
        zip(names, split_images(names, args.split, args.seed), strict=True)
    )
    for number, group in zip(used, group_of, strict=True):
        split_of[number] = splits[group]
    return split_of


def _write(
    args: Namespace,
    format_: Format,
    outputs: Outputs,
    spool: Spool,
    split_of: Sequence[int],
    skipped: SkippedItems,
) -> list[int]:
    if args.to == 'stage2':
        return write_json(spool, split_of, outputs.paths, skipped, args.copy)
    progress = ShardProgress(
        args.out / WORK / 'progress', _digest(args, spool)
    )
    try:
        return write_shards(
            spool,
            split_of,
            outputs.paths,
            skipped,
            progress,
            args.shard_size,
            args.seed,
            not args.quiet,
        )
    finally:
        progress.close()


def _summary(
    args: Namespace,
    format_: Format,
    source: Path,
    outputs: Outputs,
    counts: Sequence[int],
    spool: Spool,
    skipped: SkippedItems,
) -> dict:
    return dict(
        source=str(source.absolute()),
        format=format_.name,
        stage=args.to,
        records=sum(counts),
        splits=dict(zip(outputs.splits, counts, strict=True)),
        images=len(spool.images),
        same_ids=spool.num_same_ids,
        skipped=dict(skipped.counts),
        seed=args.seed,
    )


def _describe(summary: dict, outputs: Outputs, out: Path) -> str:
    lines = [
        f'{summary["records"]:,} records of the format {summary["format"]} '
        f'with {summary["images"]:,} images'
    ]
    if not summary['records']:
        lines[0] = (
            f'no record of the format {summary["format"]} can be used; '
            'no data are written'
        )
    elif summary['stage'] == 'stage2' and summary['images']:
        lines.append(
            f'  the images were not decoded; "minigpt4 data check {out}" '
            'decodes them'
        )
    for path, (split, count) in zip(
        outputs.paths, summary['splits'].items(), strict=True
    ):
        if summary['records']:
            lines.append(f'  {split}: {count:,} in {path}')
    for kind, count in sorted(summary['skipped'].items()):
        lines.append(f'  skipped: {count:,}, {kind}')
    if summary['skipped']:
        lines.append(f'  all that was skipped: {out / SKIPPED_FILE}')
    if summary['same_ids']:
        lines.append(
            f'  {summary["same_ids"]:,} records had the id of an earlier '
            'one; a number was added'
        )
    return '\n'.join(lines)
