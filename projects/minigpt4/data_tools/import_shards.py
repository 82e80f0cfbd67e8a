# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Write imported captions as tar shards of stage 1; stop and resume."""

import io
import json
import os
import random
import tarfile
from collections.abc import Sequence
from pathlib import Path

from ..images.read import read_file
from ..utils.atomic import replacing
from ..utils.progress import progress_bar
from ..utils.sample_errors import SampleError
from .image_bytes import as_member
from .import_spool import Spool
from .skipped_items import UNREADABLE, SkippedItems


class ShardProgress:
    """The shards that are finished, in a file of JSON lines.

    The first line has the digest of the settings and of the source.

    Args:
        path: The file.
        digest: The digest.

    Attributes:
        finished: For each finished shard the number of its samples, and the
            skipped ones as (number of the record, reason).
    """

    def __init__(self, path: Path, digest: str) -> None:
        self.finished: dict[str, tuple[int, list]] = {}
        lines = []
        if path.exists():
            lines = path.read_text('utf-8').splitlines()
        rows = [row for line in lines if (row := _row(line)) is not None]
        same = bool(rows) and rows[0].get('digest') == digest
        if same:
            for row in rows[1:]:
                self.finished[row['shard']] = row['samples'], row['skipped']
        self._file = open(path, 'a' if same else 'w', encoding='utf-8')  # noqa: SIM115
        if not same:
            self._write(dict(digest=digest))
        elif lines and _row(lines[-1]) is None:
            self._write_text('\n')  # the last line was cut

    def add(self, shard: str, samples: int, skipped: list) -> None:
        """Store that a shard is finished."""
        self.finished[shard] = samples, skipped
        self._write(dict(shard=shard, samples=samples, skipped=skipped))

    def _write(self, row: dict) -> None:
        self._write_text(json.dumps(row) + '\n')

    def _write_text(self, text: str) -> None:
        self._file.write(text)
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _row(line: str) -> dict | None:
    """A line of the file; None for a line that was cut."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def write_shards(
    spool: Spool,
    split_of: Sequence[int],
    folders: Sequence[Path],
    skipped: SkippedItems,
    progress: ShardProgress,
    shard_size: int = 1000,
    seed: int = 0,
    visible: bool = True,
) -> list[int]:
    """Write the shards of each split.

    The records of a split are shuffled, so that the captions of an image are
    not neighbours. Which records a shard has depends on their order only; a
    record whose image cannot be read is omitted from its shard.

    Args:
        spool: The records, each with one image and a caption.
        split_of: The split of each record; -1 for none.
        folders: The folder of each split.
        skipped: Reports images that cannot be read.
        progress: The shards that an interrupted import has finished.
        shard_size: Records of a shard.
        seed: Seed of the order.
        visible: Whether to show progress.

    Returns:
        Number of samples of each split.

    Raises:
        OSError: A shard cannot be written, e.g. on a full disk.
    """
    counts = [0] * len(folders)
    with progress_bar(visible=visible) as bar:
        task = bar.add_task('write shards', total=len(spool))
        for split, folder in enumerate(folders):
            order = [n for n, s in enumerate(split_of) if s == split]
            random.Random(f'shards {seed}').shuffle(order)
            for start in range(0, len(order), shard_size):
                numbers = order[start : start + shard_size]
                shard = folder / f'{start // shard_size:05d}.tar'
                name = shard.relative_to(folders[0].parent).as_posix()
                if name not in progress.finished or not shard.is_file():
                    samples, bad = _write_shard(shard, spool, numbers)
                    progress.add(name, samples, bad)
                samples, bad = progress.finished[name]
                counts[split] += samples
                for number, reason in bad:
                    skipped.add(spool.item(number), UNREADABLE, reason)
                bar.advance(task, len(numbers))
    return counts


def _write_shard(
    path: Path, spool: Spool, numbers: Sequence[int]
) -> tuple[int, list]:
    """Write a shard; returns its samples, and the skipped with reasons."""
    skipped = []
    samples = 0
    with replacing(path) as temporary:
        with tarfile.open(temporary, 'w') as tar:
            for place, number in enumerate(numbers):
                try:
                    suffix, data = _image(spool, number)
                except SampleError as error:
                    reason = f'has an image that cannot be read: {error}'
                    skipped.append([number, reason])
                    continue
                record = json.loads(b'{' + spool.body(number))
                caption = record.pop('caption', None) or record['answer']
                record.pop('answer', None)
                key = f'{path.stem}{place:06d}'
                details = dict(caption=caption, key=key, **record)
                for name, content in (
                    (suffix, data),
                    ('txt', caption.encode()),
                    ('json', json.dumps(details).encode()),
                ):
                    member = tarfile.TarInfo(f'{key}.{name}')
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
                samples += 1
        with open(temporary, 'rb') as file:
            os.fsync(file.fileno())
    return samples, skipped


def _image(spool: Spool, number: int) -> tuple[str, bytes]:
    image = spool.images[spool.images_of(number)[0]]
    if image.offset >= 0:
        return as_member(spool.image_bytes(image), image.name)
    return as_member(read_file(image.name), image.name)
