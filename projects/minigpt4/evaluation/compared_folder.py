# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Read a result folder completely, to compare it with another one."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

from ..images.image_ids import ImageIds
from ..utils.errors import printable
from ..utils.json_files import read_json_lines
from .compared_protocol import ComparedProtocol, Sample
from .compared_samples import compared_protocol
from .result_folder import SUMMARY_FILE, read_settings, read_summary


@dataclass(frozen=True)
class StoredResults:
    """The results of a folder.

    Attributes:
        folder: The folder.
        name: Name of the protocol.
        protocol: How its results are compared.
        settings: The settings, and the scoring options with ``scoring.``
            before their names.
        samples: The samples by key, in the order of the files.
        rows: The rows of the samples.
        failed: Rows that have an error instead of a result.
        without_truth: Rows without what another file of the folder has, such
            as captions of images without a truth.
    """

    folder: Path
    name: str
    protocol: ComparedProtocol
    settings: dict[str, Any]
    samples: dict[str, Sample]
    rows: list[dict[str, Any]]
    failed: int
    without_truth: int


def read_results(folder: Path) -> StoredResults:
    """Read the results of a folder.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: It has no results of a protocol that can be compared, is
            not complete, or is damaged.
        OSError: A file cannot be read.
    """
    if not folder.is_dir():
        found = 'is not a folder' if folder.exists() else 'does not exist'
        raise FileNotFoundError(
            f'{folder} {found}; expected the -o of "minigpt4 eval".'
        )
    settings = read_settings(folder)
    name = str(settings.pop('protocol'))
    protocol = compared_protocol(name)
    summary = read_summary(folder)
    stored = _read_stored(folder, protocol)
    scoring = _scoring(folder, protocol, summary)
    by_image = protocol.stored is not None and protocol.stored.by_image
    ids = ImageIds(stored if by_image else ())
    samples: dict[str, Sample] = {}
    rows: list[dict[str, Any]] = []
    seen: Counter[str] = Counter()
    failed = without_truth = 0
    for place, row in _rows(folder, protocol):
        if row.get('error') is not None or row.get('problem'):
            failed += 1
            continue
        if by_image and 'image_id' in row:
            # captions of other programs may have other forms of the ids
            row['image_id'] = ids.find(row['image_id']) or row['image_id']
        sample = _sample(protocol, place, row, settings, scoring, stored)
        if sample is None:
            without_truth += 1
            continue
        # an image may have several captions
        seen[sample.key] += 1
        key = sample.key
        if seen[key] > 1:
            key = f'{key}, number {seen[key]}'
        samples[key] = sample._replace(key=key)
        rows.append(row)
    results = StoredResults(
        folder,
        name,
        protocol,
        _flat(settings) | _flat(dict(scoring=scoring)),
        samples,
        rows,
        failed,
        without_truth,
    )
    number = len(samples)
    if number != (found := _counted(protocol, summary)):
        raise _incomplete(folder, protocol, number, found)
    return results


def check_complete(folder: Path, summary: Mapping[str, Any]) -> None:
    """Refuse a folder with fewer results than its summary counts.

    A summary without a count is not checked.

    Args:
        folder: The folder.
        summary: Its summary.

    Raises:
        ValueError: It has fewer, or a line of them is damaged.
        OSError: A file cannot be read.
    """
    protocol = compared_protocol(str(summary['protocol']))
    # rows without a truth are not among the counted samples
    unscored = [
        summary.get(name, 0)
        for name in ('without_truth', 'without_references')
    ]
    number = -sum(n for n in unscored if isinstance(n, int)) + sum(
        row.get('error') is None and not row.get('problem')
        for _, row in _rows(folder, protocol)
    )
    found = _counted(protocol, summary)
    if isinstance(found, int) and number < found:
        raise _incomplete(folder, protocol, max(number, 0), found)


def _rows(
    folder: Path, protocol: ComparedProtocol
) -> list[tuple[str, dict[str, Any]]]:
    """The rows of all files with their places, in the order of their keys.

    Of rows of one key those count that count for the summary: the first one,
    and the last judgement that has no problem.

    Raises:
        ValueError: A line is no object of JSON.
    """
    found: dict[Any, tuple[str, dict[str, Any]]] = {}
    name = protocol.row_key
    judged = name == 'key'
    for path in sorted(folder.glob(protocol.files)):
        for line, row in read_json_lines(path):
            place = f'{path}: line {line}'
            key = row.get(name) if isinstance(row, dict) and name else None
            if not isinstance(row, dict) or (
                name and type(key) is not (str if judged else int)
            ):
                raise ValueError(
                    f'{place} is no result of the protocol; remove the '
                    'folder, or give another one.'
                )
            if not name:
                key = len(found)
            if key not in found or (judged and not row.get('problem')):
                found[key] = place, row
    return [found[key] for key in sorted(found)]


def _scoring(
    folder: Path, protocol: ComparedProtocol, summary: Mapping[str, Any]
) -> dict[str, Any]:
    """The scoring options of a summary."""
    try:
        return protocol.scoring(summary)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f'{folder / SUMMARY_FILE} has no scoring options; the command '
            'that made it writes it again.'
        ) from error


def _read_stored(
    folder: Path, protocol: ComparedProtocol
) -> Mapping[str, Any]:
    """What the samples need besides the rows."""
    file = protocol.stored
    if file is None:
        return {}
    path = folder / file.name
    if not path.exists():
        raise ValueError(f'{folder} has no {file.name}, {file.missing}.')
    return file.read(path)


def _sample(
    protocol: ComparedProtocol,
    place: str,
    row: Mapping[str, Any],
    settings: Mapping[str, Any],
    scoring: Mapping[str, Any],
    stored: Mapping[str, Any],
) -> Sample | None:
    """The sample of a row.

    Raises:
        ValueError: The row is damaged.
    """
    reason = 'a count is not a finite number'
    try:
        sample = protocol.sample(row, settings, scoring, stored)
        if sample is None or all(map(math.isfinite, sample.counts.values())):
            return sample
    except KeyError as error:
        reason = f'{error} is missing'
    except (ValueError, TypeError, AttributeError, IndexError) as error:
        reason = printable(str(error))[:120]
    raise ValueError(
        f'{place} is no result of the protocol ({reason}); remove the '
        'folder, or give another one.'
    )


def _counted(protocol: ComparedProtocol, summary: Mapping[str, Any]) -> Any:
    """The number of samples that a summary states, or ``'none'``."""
    try:
        return (protocol.number or itemgetter(protocol.unit))(summary)
    except (KeyError, TypeError, AttributeError):
        return 'none'


def _incomplete(
    folder: Path, protocol: ComparedProtocol, number: int, counted: Any
) -> ValueError:
    return ValueError(
        f'{folder} has {number:,} {protocol.unit}, and its {SUMMARY_FILE} '
        f'counts {counted}; the command that made it continues it.'
    )


def _flat(settings: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    """Settings without nesting: ``generation.num_beams``."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= _flat(value, f'{prefix}{key}.')
        else:
            flat[prefix + key] = value
    return flat
