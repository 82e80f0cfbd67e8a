# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Store the decisions of a file: each record is checked on its own."""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from ..captioning.csv_escaping import plain_text
from ..prompts.text_validation import is_blank
from ..utils.errors import printable, short_json
from ..utils.json_files import parse_strict_json
from ..utils.regular_files import read_regular
from ..utils.text_files import encoding_error
from .decisions import is_new_text, make_review
from .review_item import ReviewItem, load_items
from .review_queue import ReviewQueue
from .reviews import Review

FORMAT = 'minigpt4 review'  # of JSON files of the offline page
COLUMNS = (
    'image',
    'file',
    'flags',
    'text',
    'reviewer',
    'decision',
    'new_text',
    'note',
    'reviewed',
)
_REQUIRED = ('image', 'decision', 'new_text', 'reviewed')
_CHUNK = 256  # records whose texts are loaded at a time
_LONGEST_CELL = 2**20  # characters


@dataclass
class Record:
    """A decision of a file.

    Attributes:
        place: Where it is in the file, for messages, e.g. ``'row 3'``.
        image: Digest of the image.
        reviewed: Digest of the text under review.
        reviewer: Name of the person.
        decision: The decision; empty for a text without one.
        text: The new text of an edit.
        note: A remark.
        shown: The text under review as the file has it; None or empty where
            it has none.
        error: What is wrong with it, if it cannot be read.
    """

    place: str
    image: Any = None
    reviewed: Any = None
    reviewer: Any = None
    decision: Any = None
    text: Any = None
    note: Any = ''
    shown: str | None = None
    error: str | None = None


@dataclass
class ImportReport:
    """What an import did.

    Attributes:
        stored: Decisions that were stored.
        known: Decisions that the ledger has already.
        undecided: Texts without a decision.
        disputed: Stored decisions that differ from another reviewer's.
        errors: A sentence for each wrong record.
        notes: A sentence for each note that is not stored.
        conflicts: A sentence for each decision that differs from an earlier
            one of the same reviewer.
    """

    stored: int = 0
    known: int = 0
    undecided: int = 0
    disputed: int = 0
    errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)


def read_decisions(path: 'str | Path') -> list[Record]:
    """Read a CSV file of ``export-review``, or a file of the offline page.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is neither.
    """
    name = printable(str(path))
    text = _decode(read_regular(str(path)), name)
    if text.lstrip()[:1] in ('{', '['):
        return list(_read_json(text, name))
    if text.lstrip()[:1] == '<':
        raise ValueError(
            f'{name} is the review page itself; open it, press "Download '
            'JSON", and import the downloaded file.'
        )
    return list(_read_csv(text, name))


def import_decisions(
    queue: ReviewQueue,
    records: Iterable[Record],
    reviewer: str | None = None,
    replace: bool = False,
) -> ImportReport:
    """Check decisions and store those that are right.

    Args:
        queue: The texts under review.
        records: The decisions.
        reviewer: Name of the person for records without one.
        replace: Whether a decision replaces another one of the same
            reviewer on the same text; otherwise that is a conflict.
    """
    report = ImportReport()
    seen: dict[tuple[int, str], tuple[str, Review]] = {}
    remaining = iter(records)
    while part := list(islice(remaining, _CHUNK)):
        items = _items_of(queue, part)
        ids = [item.image.id for item in items.values()]
        known: dict[tuple[int, str], dict[str, Review]] = {}
        for review in queue.ledger.reviews.latest(ids):
            key = (review.image, review.reviewed)
            known.setdefault(key, {})[review.reviewer] = review
        new: list[Review] = []
        for record in part:
            try:
                if record.error is None and not record.decision:
                    _check_undecided(record, items)
                    report.undecided += 1
                    if record.note and not is_blank(str(record.note)):
                        report.notes.append(
                            f'{record.place}: there is a note but no '
                            'decision, so the note is not stored; write a '
                            'decision too.'
                        )
                    continue
                review = _checked(record, items, reviewer)
            except ValueError as error:
                report.errors.append(f'{record.place}: {error}')
                continue
            others = known.get((review.image, review.reviewed), {})
            before = others.get(review.reviewer)
            first = seen.get((review.image, review.reviewer))
            if first is not None:
                place, before = first
                if not _same(before, review):
                    report.conflicts.append(
                        f'{record.place}: {review.reviewer} has another '
                        f'decision on this text in {place}; the first is '
                        'kept.'
                    )
                continue
            seen[review.image, review.reviewer] = (record.place, review)
            if before is not None and _same(before, review):
                report.known += 1
                continue
            if before is not None and not replace:
                report.conflicts.append(
                    f'{record.place}: {review.reviewer} has decided '
                    f'"{before.decision}" in the ledger and '
                    f'"{review.decision}" here; the ledger is kept (--replace '
                    'takes the file).'
                )
                continue
            report.disputed += any(
                not _same(other, review)
                for name, other in others.items()
                if name != review.reviewer
            )
            new.append(review)
        if new:
            queue.ledger.reviews.add(*new)
            report.stored += len(new)
    return report


def _same(one: Review, other: Review) -> bool:
    return (one.decision, one.text) == (other.decision, other.text)


def _items_of(
    queue: ReviewQueue, records: list[Record]
) -> dict[str, ReviewItem]:
    """The texts under review, by digest of the image."""
    digests = [r.image for r in records if isinstance(r.image, str)]
    ids = [
        id_
        for (id_,) in queue.ledger.select(
            'SELECT id FROM images WHERE digest IN '
            '(SELECT value FROM json_each(?))',
            (json.dumps(digests),),
        )
    ]
    items = load_items(queue.ledger, queue.steps, ids)
    return {item.image.digest: item for item in items}


def _checked(
    record: Record, items: dict[str, ReviewItem], reviewer: str | None
) -> Review:
    if record.error is not None:
        raise ValueError(record.error)
    if not isinstance(record.image, str) or record.image not in items:
        raise ValueError(
            f'the ledger has no text under review of the image '
            f'{short_json(record.image)}.'
        )
    item = items[record.image]
    if record.reviewed != item.digest:
        raise ValueError(
            'the text of this image has changed since the export, or its '
            'column "reviewed" was edited; export it again.'
        )
    _check_shown(record, item)
    return make_review(
        item,
        record.reviewer or reviewer,
        record.decision,
        record.text,
        record.note,
    )


def _check_undecided(record: Record, items: dict[str, ReviewItem]) -> None:
    """Refuse a text that a person wrote without a decision."""
    item = items.get(str(record.image))
    if is_new_text(record.text, item.text if item else ''):
        raise ValueError(
            'there is a new text but no decision; write edit as the '
            'decision, or clear the new text.'
        )
    if item is not None and record.reviewed == item.digest:
        _check_shown(record, item)


def _check_shown(record: Record, item: ReviewItem) -> None:
    """Refuse an edit in the wrong column.

    White space is not compared, because some spreadsheets change it.
    """
    shown = (record.shown or '').split()
    if shown and shown != item.text.split():
        raise ValueError(
            'its column "text" was edited; write the new text in "new_text" '
            'with the decision edit, and clear "text".'
        )


def _decode(data: bytes, name: str) -> str:
    encoding = 'utf-8-sig'
    if data.startswith((b'\xff\xfe', b'\xfe\xff')):
        encoding = 'utf-16'  # "Unicode text" of a spreadsheet
    elif reason := encoding_error(data):
        raise ValueError(f'{name} is no file of decisions ({reason}).')
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b'\n', 0, error.start) + 1
        raise ValueError(
            f'{name} is not UTF-8 (line {line}); save it as "CSV UTF-8".'
        ) from error


def _read_json(text: str, name: str) -> Iterator[Record]:
    try:
        content = parse_strict_json(text)
    except ValueError as error:
        raise ValueError(
            f'{name} is not JSON ({printable(str(error))}); give the file '
            'that the review page downloaded.'
        ) from error
    if isinstance(content, list):
        raise ValueError(
            f'{name} is a list; give the file that the review page '
            'downloaded. An export of Label Studio is read by: minigpt4 '
            'curate label-studio import.'
        )
    decisions = content.get('decisions')
    if content.get('format') != FORMAT or not isinstance(decisions, list):
        raise ValueError(
            f'{name} was not downloaded from a review page ("format" is '
            f'{short_json(content.get("format"))}; expected "{FORMAT}").'
        )
    for number, found in enumerate(decisions, 1):
        place = f'decision {number}'
        if not isinstance(found, dict):
            yield Record(place, error='it is not a JSON object.')
            continue
        yield Record(
            place,
            found.get('image'),
            found.get('reviewed'),
            found.get('reviewer'),
            found.get('decision'),
            found.get('text'),
            found.get('note'),
        )


def _read_csv(text: str, name: str) -> Iterator[Record]:
    first = text.partition('\n')[0]
    separator = max(',;\t', key=first.count)
    rows = csv.reader(io.StringIO(text, newline=''), delimiter=separator)
    csv.field_size_limit(_LONGEST_CELL)
    header = [cell.strip().lower() for cell in next(rows, [])]
    missing = [column for column in _REQUIRED if column not in header]
    if missing:
        raise ValueError(
            f'{name} has no column {", ".join(missing)}; give a CSV file of '
            '"minigpt4 curate export-review", with its first row.'
        )
    for column in COLUMNS:
        if header.count(column) > 1:
            raise ValueError(
                f'{name} has more than one column {column}; keep one.'
            )
    number = 1
    while True:
        number += 1
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield Record(f'row {number}', error=f'it is not CSV ({error}).')
            return
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(header):
            yield Record(
                f'row {number}',
                error=f'it has {len(row)} cells; expected {len(header)}.',
            )
            continue
        cells = {column: plain_text(cell) for column, cell in zip(header, row)}
        yield Record(
            f'row {number}',
            cells['image'].strip(),
            cells['reviewed'].strip(),
            cells.get('reviewer', '').strip(),
            cells['decision'].strip().lower(),
            cells['new_text'],
            cells.get('note', ''),
            cells.get('text'),
        )
