# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Read a result folder completely, to compare it with another one."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..images.image_ids import ImageIds
from ..utils.errors import printable
from ..utils.json_files import read_json_lines
from .chair_run import read_truth
from .chair_truth import TRUTH_FILE
from .compared_samples import ComparedProtocol, Sample, compared_protocol
from .question_protocols import QUESTION_PROTOCOLS
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
        without_truth: Captions of images without a truth.
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
    scoring = _scoring(folder, name, summary)
    truth = _read_truth(folder) if protocol.has_truth else {}
    ids = ImageIds(truth)
    samples: dict[str, Sample] = {}
    rows: list[dict[str, Any]] = []
    seen: Counter[str] = Counter()
    failed = without_truth = 0
    for place, row in _rows(folder, protocol):
        if row.get('error') is not None:
            failed += 1
            continue
        if protocol.has_truth and 'image_id' in row:
            # captions of other programs may have other forms of the ids
            row['image_id'] = ids.find(row['image_id']) or row['image_id']
        sample = _sample(protocol, place, row, settings, scoring, truth)
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
    _check_number(results, summary)
    return results


def _rows(
    folder: Path, protocol: ComparedProtocol
) -> list[tuple[str, dict[str, Any]]]:
    """The rows of all files with their places, in the order of numbers.

    Of rows of one number the first one counts, as for the summary.

    Raises:
        ValueError: A line is no object of JSON.
    """
    found: dict[Any, tuple[str, dict[str, Any]]] = {}
    for path in sorted(folder.glob(protocol.files)):
        for line, row in read_json_lines(path):
            place = f'{path}: line {line}'
            number = row.get('number') if isinstance(row, dict) else None
            if not isinstance(row, dict) or (
                protocol.numbered and type(number) is not int
            ):
                raise ValueError(
                    f'{place} is no result of the protocol; remove the '
                    'folder, or give another one.'
                )
            key = number if protocol.numbered else len(found)
            found.setdefault(key, (place, row))
    return [found[key] for key in sorted(found)]


def _scoring(
    folder: Path, name: str, summary: Mapping[str, Any]
) -> dict[str, Any]:
    """The scoring options of a summary."""
    scoring = summary.get('scoring', {})
    if not isinstance(scoring, dict):
        raise ValueError(
            f'{folder / SUMMARY_FILE} has no scoring options; the command '
            'that made it writes it again.'
        )
    # options of later versions have their defaults in older folders
    if name in QUESTION_PROTOCOLS:
        return {**QUESTION_PROTOCOLS[name].scoring, **scoring}
    return scoring


def _read_truth(folder: Path) -> dict[str, list[str]]:
    path = folder / TRUTH_FILE
    if not path.exists():
        raise ValueError(
            f'{folder} has no {TRUTH_FILE}, the classes in each image; the '
            'command that made the folder writes it, without captioning '
            'again.'
        )
    return read_truth(path, part=True)


def _sample(
    protocol: ComparedProtocol,
    place: str,
    row: Mapping[str, Any],
    settings: Mapping[str, Any],
    scoring: Mapping[str, Any],
    truth: Mapping[str, list[str]],
) -> Sample | None:
    """The sample of a row.

    Raises:
        ValueError: The row is damaged.
    """
    reason = 'a count is not a finite number'
    try:
        sample = protocol.sample(row, settings, scoring, truth)
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


def _check_number(results: StoredResults, summary: Mapping[str, Any]) -> None:
    """Refuse a folder with fewer or more rows than its summary counts."""
    folder = results.folder
    number = len(results.samples)
    counted = summary.get(results.protocol.unit)
    if counted != number:
        raise ValueError(
            f'{folder} has {number:,} {results.protocol.unit}, and its '
            f'{SUMMARY_FILE} counts {counted}; the command that made it '
            'continues it.'
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
