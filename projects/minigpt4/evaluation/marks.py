# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Marks of people: a page to mark answers, and the scores of the marks.

The page is one file that needs no server and no network. It does not show
what a detector or a judge found.
"""

import base64
import csv
import hashlib
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..images.read import read_file, read_image
from ..utils.atomic import write_atomically
from ..utils.errors import one_line, printable
from ..utils.json_files import parse_strict_json, read_json_lines
from ..utils.text_files import read_text
from .abilities import PROMPTS as ABILITIES
from .failures import PROMPTS as FAILURES
from .failures import row_failures
from .generated_answers import ANSWERS_FILE, read_rows
from .judge import JUDGEMENTS_FILE, decisions
from .kappa import cohens_kappa
from .proportions import share
from .result_folder import read_settings

PAGE_FILE, SUMMARY_FILE = 'marks.html', 'marks_summary.json'
_PLACE = '/*DATA*/null'
_SIDE = 512  # the longest side of an image on the page, in pixels
_MARKS = (1, 2)
_RATER = re.compile(r'[\w-]{1,40}')
# names of the marks 1 and 2, groups
_PROTOCOLS: dict[str, tuple[tuple[str, str], tuple[str, ...]]] = {
    'failures': (('fine', 'failure'), tuple(FAILURES)),
    'abilities': (('request met', 'request not met'), tuple(ABILITIES)),
}


def write_page(
    folder: Path, images: Path | None = None
) -> tuple[Path, int, list[str]]:
    """Write the page for the answers of a result folder.

    Args:
        folder: The folder.
        images: A folder with the images by name; None where they were.

    Returns:
        The file, the number of its answers, and the error of each image that
        cannot be read; its answers are on the page without an image.

    Raises:
        ValueError: The folder has no answers to mark.
        OSError: A file cannot be read or written.
    """
    protocol, rows = _answers(folder)
    labels, _ = _PROTOCOLS[protocol]
    encoded: dict[str, int] = {}
    sources: list[str] = []
    errors = []
    items = []
    for row in rows:
        path = row['image']
        if images is not None:
            path = str(images / os.path.basename(path))
        if path not in encoded:
            encoded[path] = -1
            try:
                sources.append(_data_uri(path))
                encoded[path] = len(sources) - 1
            except (OSError, ValueError) as error:
                errors.append(f'{path}: {one_line(error)}')
        items.append(
            dict(
                number=row['number'],
                image=encoded[path],
                prompt=row['prompt'],
                answer=row['answer'],
            )
        )
    data = dict(
        run=run_digest(rows),
        protocol=protocol,
        labels=labels,
        images=sources,
        items=items,
    )
    page = Path(__file__).with_name('marks_page.html').read_text('utf-8')
    # no text of the data can end the script or begin a comment of HTML
    text = json.dumps(data).replace('<', '\\u003c')
    before, after = page.split(_PLACE)
    path_ = folder / PAGE_FILE
    write_atomically(path_, f'{before}{text}{after}'.encode())
    return path_, len(items), errors


def import_marks(folder: Path, file: Path) -> dict[str, Any]:
    """Read exported marks, store them in the folder, and score them.

    Args:
        folder: The result folder.
        file: The CSV or JSON file that the page has exported.

    Returns:
        See :func:`score_marks`.

    Raises:
        ValueError: The file has no marks of these answers.
        OSError: A file cannot be read or written.
    """
    protocol, rows = _answers(folder)
    run, rater, marks = read_marks(file)
    if run != run_digest(rows):
        raise ValueError(
            f'{file} has marks of other answers (run {printable(run)} instead '
            f'of {run_digest(rows)}); give marks of the page of {folder}.'
        )
    numbers = {row['number'] for row in rows}
    if unknown := sorted(set(marks) - numbers):
        raise ValueError(
            f'{file} marks the answer {unknown[0]}, which {folder} does not '
            'have.'
        )
    content = dict(run=run, rater=rater, marks=marks)
    write_atomically(folder / f'marks-{rater}.json', _pretty(content))
    summary = score_marks(protocol, rows, marks, _programs(folder, rows))
    summary['rater'] = rater
    write_atomically(folder / SUMMARY_FILE, _pretty(summary))
    return summary


def read_marks(file: Path) -> tuple[str, str, dict[int, int]]:
    """Read run, rater and marks (1 or 2 by number) of an exported file.

    Raises:
        ValueError: It is no such file.
        OSError: It cannot be read.
    """
    if not file.is_file():
        raise FileNotFoundError(
            f'{file} is no file; give the marks that the page has exported.'
        )
    text = read_text(file)
    expected = 'expected the JSON or CSV file of the page of "eval marks"'
    try:
        if text.lstrip().startswith('{'):
            data = parse_strict_json(text)
            run, rater = data['run'], data['rater']
            pairs = list(data['marks'].items())
        else:
            records = list(csv.DictReader(io.StringIO(text)))
            run, rater = records[0]['run'], records[0]['rater']
            pairs = [(record['number'], record['mark']) for record in records]
        marks = {int(number): int(mark) for number, mark in pairs}
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise ValueError(f'{file} has no marks; {expected}.') from None
    if not marks:
        raise ValueError(f'{file} has no marks yet; mark some answers first.')
    for number, mark in marks.items():
        if mark not in _MARKS:
            raise ValueError(
                f'{file}: answer {number} has the mark {mark}; expected 1 or '
                '2.'
            )
    if not isinstance(rater, str) or not _RATER.fullmatch(rater):
        raise ValueError(
            f'{file} has the rater {printable(repr(rater))}; expected a name '
            'of letters, digits, "-" and "_".'
        )
    return str(run), rater, marks


def score_marks(
    protocol: str,
    rows: Sequence[Mapping[str, Any]],
    marks: Mapping[int, int],
    programs: Mapping[int, int],
) -> dict[str, Any]:
    """Compute the scores of marks.

    Args:
        protocol: ``'failures'`` or ``'abilities'``.
        rows: The answers.
        marks: 1 or 2 by number.
        programs: The same of the detectors or of the judge; empty without a
            judge.

    Returns:
        ``marked`` and ``unmarked`` (counts), ``scores`` (for each group the
        share of failures, or of requests that are met, of its marked
        answers), and ``agreement`` with the program: ``both``, ``equal``,
        ``kappa`` (None where it is not defined).
    """
    counted = 2 if protocol == 'failures' else 1
    scores = {}
    for group in _PROTOCOLS[protocol][1]:
        own = [
            marks[row['number']]
            for row in rows
            if row['group'] == group and row['number'] in marks
        ]
        scores[group] = share(own.count(counted), len(own))
    pairs = [
        (mark, programs[number])
        for number, mark in marks.items()
        if number in programs
    ]
    kappa = cohens_kappa(pairs)
    return dict(
        protocol=protocol,
        marked=len(marks),
        unmarked=len(rows) - len(marks),
        scores=scores,
        agreement=dict(
            both=len(pairs),
            equal=sum(one == other for one, other in pairs),
            kappa=None if kappa is None else round(kappa, 6),
        ),
    )


def run_digest(rows: Sequence[Mapping[str, Any]]) -> str:
    """Digest the answers: 16 hexadecimal digits."""
    content = [[row['number'], row['prompt'], row['answer']] for row in rows]
    return hashlib.blake2b(
        json.dumps(content).encode(), digest_size=8
    ).hexdigest()


def _answers(folder: Path) -> tuple[str, list[dict[str, Any]]]:
    protocol = str(read_settings(folder)['protocol'])
    if protocol not in _PROTOCOLS:
        raise ValueError(
            f'{folder} has results of {protocol}; answers of '
            f'{" and ".join(_PROTOCOLS)} can be marked.'
        )
    rows = [r for r in read_rows(folder, ANSWERS_FILE) if 'error' not in r]
    if not rows:
        raise ValueError(f'{folder} has no answers yet.')
    return protocol, rows


def _programs(
    folder: Path, rows: Sequence[Mapping[str, Any]]
) -> dict[int, int]:
    """The marks of the detectors, or of the judge if there is one."""
    if read_settings(folder)['protocol'] == 'failures':
        return {r['number']: 2 if row_failures(r) else 1 for r in rows}
    path = folder / JUDGEMENTS_FILE
    if not path.is_file():
        return {}
    found, _ = decisions(
        [row for _, row in read_json_lines(path)], 'first-word'
    )
    return {int(key): 1 if word == 'yes' else 2 for key, word in found.items()}


def _data_uri(path: str) -> str:
    """The image as JPEG in a data URI, made smaller.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no image.
    """
    image = read_image(read_file(path), path)
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, 'JPEG', quality=80)
    return 'data:image/jpeg;base64,' + base64.b64encode(
        buffer.getvalue()
    ).decode('ascii')


def _pretty(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=2) + '\n').encode()
