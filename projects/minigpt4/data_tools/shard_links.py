# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""What became of the links from which img2dataset made shards.

For each shard ``00000.tar`` img2dataset writes ``00000_stats.json`` with the
number of links by reason, when the shard is finished, and ``00000.parquet``
with a row for each link. A link without an image is in these files only, not
in the shard.

Source: ``logger.py`` and ``writer.py`` of img2dataset 1.47.0.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..utils.errors import one_line
from ..utils.regular_files import NotRegularFileError, open_regular
from .find_data import DataPart
from .problems import Problem

RETRY_FILE = 'retry_links.jsonl'
_HTTP = re.compile(r'HTTP Error (\d{3})')
_MORE_TIME = (408, 425, 429)  # codes of a server that is busy, and all 5xx
_UNKNOWN = 'no reason is recorded'
# part of a message, its reason, whether another attempt may get the image;
# the first part that is found counts
_REASONS = (
    ('timed out', 'no answer within the time limit', True),
    ('temporary failure', 'the name server did not answer', True),
    ('name or service', 'the host has no address', False),
    ('nodename nor serv', 'the host has no address', False),
    ('no address', 'the host has no address', False),
    ('ssl', 'an error of TLS or of the certificate', False),
    ('x-robots-tag', 'not allowed by X-Robots-Tag', False),
    ('incompleteread', 'the transfer was cut', True),
    ('closed connection', 'no connection', True),
    ('refused', 'no connection', True),
    ('reset', 'no connection', True),
    ('unreachable', 'no connection', True),
    ('no route', 'no connection', True),
    ('too small', 'outside the limits of the size', False),
    ('too large', 'outside the limits of the size', False),
    ('hash mismatch', 'another file than expected', False),
    ('decod', 'no image that OpenCV reads', False),
    ('unknown url type', 'no URL of a web page', False),
    ('no host given', 'no URL of a web page', False),
    (_UNKNOWN, _UNKNOWN, False),
    ("can't contain", 'no URL of a web page', False),
    ('local host', 'no URL of a web page', False),
)


class ShardLinks(NamedTuple):
    """What img2dataset reports of the links of one shard.

    Attributes:
        links: Links.
        images: Links with an image, which are the samples of the shard.
        messages: Number of the other links by their message.
    """

    links: int
    images: int
    messages: dict[str, int]


def link_reason(message: str) -> tuple[str, bool]:
    """Return why a link has no image, in one form for each reason.

    Args:
        message: The message of img2dataset, which may have a host, a number
            of bytes or an address in it.

    Returns:
        The reason, and whether another attempt may get the image.
    """
    if found := _HTTP.search(message):
        code = int(found[1])
        return f'HTTP {code}', code in _MORE_TIME or code >= 500
    text = message.lower()
    for part, reason, again in _REASONS:
        if part in text:
            return reason, again
    return 'another reason', False


def read_links(parts: Iterable[DataPart]) -> dict[str, 'ShardLinks | str']:
    """Read the statistics of the shards that img2dataset made.

    Args:
        parts: The parts of the data.

    Returns:
        For each local shard in a folder with statistics what they say, or
        why the shard is unfinished.
    """
    found: dict[str, ShardLinks | str] = {}
    made: dict[Path, bool] = {}
    for part in parts:
        for shard in part.shards:
            folder = Path(shard).parent
            if shard in part.remote:
                continue
            if folder not in made:
                made[folder] = any(folder.glob('*_stats.json'))
            if made[folder]:
                found[shard] = _read_statistics(_next_to(shard, '_stats.json'))
    return found


def _next_to(shard: str, suffix: str) -> Path:
    path = Path(shard)
    return path.with_name(path.name.partition('.')[0] + suffix)


def _read_statistics(path: Path) -> 'ShardLinks | str':
    again = 'run the same command of img2dataset again'
    try:
        with open_regular(path) as file:
            content = json.load(file)
        links, images = content['count'], content['successes']
        messages = {
            str(text): int(number)
            for text, number in content['status_dict'].items()
            if text != 'success'
        }
        others = int(links) - int(images)
        unknown = others - sum(messages.values())
        if min(int(images), unknown, *messages.values()) < 0:
            raise ValueError(
                f'of {links:,} links {images:,} have an image, and '
                f'{sum(messages.values()):,} have a reason why they have none'
            )
        if unknown:  # e.g. an error of img2dataset itself, which it prints
            messages[_UNKNOWN] = unknown
        return ShardLinks(int(links), int(images), messages)
    except FileNotFoundError:
        return f'there is no {path.name}, which ends a shard; {again}'
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        return (
            f'{path.name} cannot be read ({type(error).__name__}: '
            f'{one_line(error)}); remove it and {again}'
        )


def unfinished_shards(
    links: Mapping[str, 'ShardLinks | str'], samples: Mapping[str, int]
) -> dict[str, str]:
    """Return the shards that img2dataset did not finish, with the reason.

    Args:
        links: What :func:`read_links` returns.
        samples: Number of samples by shard.
    """
    found = {}
    for shard, facts in links.items():
        number = samples.get(shard, 0)
        if isinstance(facts, str):
            found[shard] = facts
        elif facts.images != number:
            name = _next_to(shard, '_stats.json').name
            found[shard] = (
                f'it has {number:,} samples, {name} counts {facts.images:,} '
                f'images; remove {name} and run the same command of '
                'img2dataset again'
            )
    return found


def link_problems(
    links: Mapping[str, 'ShardLinks | str'], unfinished: Mapping[str, str]
) -> Iterator[Problem]:
    """Yield a problem for each unfinished shard and for each reason."""
    for shard, reason in unfinished.items():
        yield Problem('unfinished', Path(shard).name, reason)
    again: dict[str, bool] = {}
    numbers: Counter[str] = Counter()
    for facts in links.values():
        if isinstance(facts, ShardLinks):
            for message, number in facts.messages.items():
                reason, again[reason] = link_reason(message)
                numbers[reason] += number
    for reason, number in numbers.most_common():
        advice = ', another attempt may work' if again[reason] else ''
        text = f'{number:,} links: {reason}{advice}'
        yield Problem('dead-links', reason, text, number)


def count_links(links: Mapping[str, 'ShardLinks | str']) -> int:
    """Return the number of links of all finished shards."""
    return sum(f.links for f in links.values() if isinstance(f, ShardLinks))


def retry_links(shards: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yield the links that another attempt may get, from the tables.

    Args:
        shards: The shards.

    Yields:
        ``url`` and, where there is one, ``caption``: records that
        img2dataset reads as JSON lines.

    Raises:
        ImportError: The package pyarrow is not installed.
    """
    import pyarrow
    from pyarrow.parquet import ParquetFile

    for shard in shards:
        try:
            with (
                open_regular(_next_to(shard, '.parquet')) as file,
                ParquetFile(file) as table,
            ):
                columns = ['url', 'caption', 'status', 'error_message']
                names = [n for n in columns if n in table.schema_arrow.names]
                for batch in table.iter_batches(columns=names):
                    for row in batch.to_pylist():
                        message = row.pop('error_message', None) or ''
                        dead = row.pop('status', None) != 'success'
                        if dead and link_reason(message)[1]:
                            yield row
        except (OSError, NotRegularFileError, pyarrow.ArrowException):
            continue  # of an unfinished shard, which is downloaded again
