# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Shards as img2dataset 1.47 writes them, without img2dataset."""

import io
import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from tests.data_sets import jpeg, noise


class Link(NamedTuple):
    """A link, and what became of it.

    Attributes:
        caption: The caption.
        error: Why there is no image; None for a link with an image.
        image: The bytes of the image; None for one of random colours.
    """

    caption: str | None = 'a photograph'
    error: str | None = None
    image: bytes | None = None


def write_shard(
    folder: Path, number: int, links: list[Link], per_shard: int = 100
) -> Path:
    """Write ``00000.tar``, ``00000_stats.json`` and ``00000.parquet``.

    The table is written if pyarrow is installed.

    Args:
        folder: The folder.
        number: Number of the shard.
        links: Its links.
        per_shard: ``--number_sample_per_shard``, from which keys are made.

    Returns:
        The shard.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shard = folder / f'{number:05d}.tar'
    rows = []
    with tarfile.open(shard, 'w') as tar:
        for index, link in enumerate(links):
            row = _row(number * per_shard + index, link)
            rows.append(row)
            if link.error is None:
                data = link.image
                if data is None:
                    data = jpeg(noise(number * per_shard + index))
                _add(tar, row, data)
    _write_statistics(folder / f'{number:05d}_stats.json', links)
    _write_table(folder / f'{number:05d}.parquet', rows)
    return shard


def _row(key: int, link: Link) -> dict:
    status = 'success' if link.error is None else 'failed_to_download'
    return dict(
        caption=link.caption,
        url=f'http://127.0.0.1/{key}.jpg',
        key=f'{key:09d}',
        status=status,
        error_message=link.error,
        width=60 if link.error is None else None,
        height=40 if link.error is None else None,
    )


def _add(tar: tarfile.TarFile, row: dict, image: bytes) -> None:
    files = dict(
        jpg=image,
        json=json.dumps(row, indent=4).encode(),
        txt=(row['caption'] or '').encode(),
    )
    for suffix, data in files.items():
        info = tarfile.TarInfo(f'{row["key"]}.{suffix}')
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))


def _write_statistics(path: Path, links: list[Link]) -> None:
    failed = Counter(link.error for link in links if link.error is not None)
    images = len(links) - sum(failed.values())
    status = dict(failed, success=images) if images else dict(failed)
    content = dict(
        count=len(links),
        successes=images,
        failed_to_download=sum(failed.values()),
        failed_to_resize=0,
        duration=2.5,
        start_time=1.0,
        end_time=3.5,
        status_dict=status,
    )
    path.write_text(json.dumps(content, indent=4))


def _write_table(path: Path, rows: list[dict]) -> None:
    try:
        import pyarrow
        from pyarrow.parquet import write_table
    except ImportError:
        return
    write_table(pyarrow.Table.from_pylist(rows), path)
