# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""How many problems of each kind a check accepts."""

from collections.abc import Mapping
from typing import NamedTuple

from .scan import Scan


class Kind(NamedTuple):
    """A kind of problem.

    Attributes:
        title: What is counted.
        of: What a share is of: ``'records'``, ``'images'``, ``'answers'``,
            ``'links'`` or ``'shards'``.
        limit: The accepted number where none is given; None is any.
    """

    title: str
    of: str
    limit: int | None


KINDS = {
    'unreadable': Kind('images that cannot be read', 'images', 0),
    'invalid': Kind('records that cannot be used', 'records', 0),
    'damaged': Kind('damages in shards', 'records', 0),
    'unfinished': Kind('shards that img2dataset did not finish', 'shards', 0),
    'empty': Kind('texts of fewer than three letters', 'answers', 0),
    'too-long': Kind('records longer than the context', 'records', 0),
    'overlap': Kind('images in training and held-out data', 'images', 0),
    'overlap-texts': Kind(
        'records whose text is in training and held-out data',
        'records',
        None,
    ),
    'dead-links': Kind('links without an image', 'links', None),
    'truncated': Kind('records with an answer that is cut', 'records', None),
    'duplicate-images': Kind('files that repeat another', 'images', None),
    'near-duplicates': Kind('images that resemble another', 'images', None),
    'duplicate-texts': Kind('records that repeat a text', 'records', None),
    'no-text': Kind('images without a text', 'records', None),
    'skipped': Kind('reasons for skipped captions', 'records', None),
    'blank': Kind('images of one colour', 'images', None),
    'tiny': Kind('images with a side below 32 pixels', 'images', None),
    'aspect': Kind('images of an aspect ratio above 4', 'images', None),
}


class Limit(NamedTuple):
    """The accepted number of problems.

    Attributes:
        value: The number, or percent.
        percent: Whether it is percent of the records, images, answers,
            links or shards.
    """

    value: float
    percent: bool = False


class Count(NamedTuple):
    """How many problems of a kind there are.

    Attributes:
        kind: The kind.
        number: Their number.
        share: Their share of the records, images, answers, links or
            shards, 0 to 1.
        limit: What is accepted; None is any number.
        exceeded: Whether there are more.
    """

    kind: str
    number: int
    share: float
    limit: Limit | None
    exceeded: bool


def parse_limit(text: str) -> Limit:
    """Parse a limit: ``10``, ``0.5%``.

    Raises:
        ValueError: It is neither a whole number nor a percentage.
    """
    try:
        if text.endswith('%'):
            value = float(text[:-1])
            if 0 <= value <= 100:
                return Limit(value, True)
        elif (number := int(text)) >= 0:
            return Limit(number)
    except ValueError:
        pass
    raise ValueError(
        f'{text} is no limit; expected a whole number such as 10, or a '
        'percentage such as 0.5%'
    )


def count_problems(
    scan: Scan,
    numbers: Mapping[str, int],
    limits: Mapping[str, Limit],
    num_links: int = 0,
) -> list[Count]:
    """Compare the number of problems of each kind with the limits.

    Args:
        scan: The data.
        numbers: Number of problems by kind.
        limits: Limits by kind that replace those of :data:`KINDS`.
        num_links: Links from which the shards were made.
    """
    totals = dict(
        records=scan.num_records,
        images=scan.known.count_images(),
        answers=len(scan.words.values),
        links=num_links,
        shards=len(scan.shards),
    )
    found = []
    for name, kind in KINDS.items():
        limit = limits.get(name)
        if limit is None and kind.limit is not None:
            limit = Limit(kind.limit)
        number = numbers.get(name, 0)
        share = number / totals[kind.of] if totals[kind.of] else 0.0
        exceeded = limit is not None and (
            100 * share > limit.value
            if limit.percent
            else number > limit.value
        )
        found.append(Count(name, number, share, limit, exceeded))
    return found
