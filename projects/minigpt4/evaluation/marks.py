# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Marks of people: a page to mark answers, and the scores of the marks.

The page is one file that needs no server and no network. It does not show
what a detector or a judge found.
"""

import base64
import hashlib
import io
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..images.read import read_file, read_image
from ..utils.atomic import write_atomically
from ..utils.errors import line_with_name, printable
from ..utils.json_files import read_json_lines
from .abilities import PROMPTS as ABILITIES
from .failures import PROMPTS as FAILURES
from .failures import row_failures
from .generated_answers import ANSWERS_FILE, read_rows
from .judge import JUDGEMENTS_FILE, decisions
from .kappa import cohens_kappa
from .marks_file import Marks, changed_run, read_marks
from .proportions import share
from .result_folder import read_settings

PAGE_FILE, SUMMARY_FILE = 'marks.html', 'marks_summary.json'
_PLACE = '/*DATA*/null'
_SIDE = 512  # the longest side of an image on the page, in pixels
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
                errors.append(line_with_name(error, path))
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


def import_marks(
    folder: Path, file: Path, replace: bool = False
) -> list[dict[str, Any]]:
    """Read exported marks, store them in the folder, and score them.

    Args:
        folder: The result folder.
        file: The CSV or JSON file that the page has exported, perhaps with
            the marks of several people.
        replace: Whether stored marks of the same people are replaced where
            the file has others, or lacks them.

    Returns:
        For each person of the file what :func:`score_marks` returns, with
        ``rater``, ``before`` (the number of the marks that were stored) and
        ``lost`` (how many of them the file changes or lacks).

    Raises:
        ValueError: The file has no marks of these answers, or would remove
            marks.
        OSError: A file cannot be read or written.
    """
    protocol, rows = _answers(folder)
    run, raters = read_marks(file)
    if run != run_digest(rows):
        raise ValueError(
            f'{file} has marks of other answers (run {printable(run)[:40]} '
            f'instead of {run_digest(rows)}){changed_run(run)}; give marks '
            f'of the page of {folder}.'
        )
    numbers = {row['number'] for row in rows}
    before: dict[str, dict[str, int]] = {}
    for rater, marks in raters.items():
        if unknown := sorted(set(marks) - numbers):
            raise ValueError(
                f'{file} marks the answer {unknown[0]}, which {folder} does '
                'not have.'
            )
        path = _rater_file(folder, rater)
        before[rater] = dict(before=0, lost=0)
        if path.exists():
            stored = _stored_marks(path)
            old = stored.raters[rater]
            lost = [n for n in old if marks.get(n) != old[n]]
            if stored.run != run:
                lost = [*old]
            before[rater] = dict(before=len(old), lost=len(lost))
            if lost and not replace:
                kind = '' if stored.run == run else ' for earlier answers'
                raise ValueError(
                    f'{path} has {len(old):,} marks of {rater}{kind}, of '
                    f'which {file} changes or lacks {len(lost):,}; give '
                    '--replace to replace them, or another name as rater.'
                )
    programs = _programs(folder, rows)
    found = []
    # nothing is stored before all is checked
    for rater, marks in raters.items():
        content = dict(run=run, rater=rater, marks=marks)
        write_atomically(_rater_file(folder, rater), _pretty(content))
        summary = score_marks(protocol, rows, marks, programs)
        summary |= dict(rater=rater, **before[rater])
        found.append(summary)
    content = found[-1] | dict(raters=found, pairs=compare_raters(folder))
    write_atomically(folder / SUMMARY_FILE, _pretty(content))
    return found


def compare_raters(folder: Path) -> list[dict[str, Any]]:
    """How far each two people agree whose marks a folder stores.

    Returns:
        For each pair ``raters`` (two names), ``both`` (answers that both
        have marked), ``equal`` and ``kappa`` (None where it is not defined).

    Raises:
        ValueError: A file of marks is damaged.
        OSError: A file cannot be read.
    """
    run = run_digest(_answers(folder)[1])
    marks: dict[str, dict[int, int]] = {}
    for path in sorted(folder.glob('marks-*.json')):
        stored = read_marks(path)
        # not a copy, such as "marks-ann (1).json"
        names = [_rater_file(folder, rater).name for rater in stored.raters]
        if stored.run == run and names == [path.name]:
            marks |= stored.raters
    return [
        dict(
            raters=[one, other],
            **_agreement(
                [
                    (mark, marks[other][number])
                    for number, mark in marks[one].items()
                    if number in marks[other]
                ]
            ),
        )
        for one, other in itertools.combinations(sorted(marks), 2)
    ]


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
    return dict(
        protocol=protocol,
        marked=len(marks),
        unmarked=len(rows) - len(marks),
        scores=scores,
        agreement=_agreement(pairs),
    )


def run_digest(rows: Sequence[Mapping[str, Any]]) -> str:
    """Digest the answers: 16 hexadecimal digits."""
    content = [[row['number'], row['prompt'], row['answer']] for row in rows]
    return hashlib.blake2b(
        json.dumps(content).encode(), digest_size=8
    ).hexdigest()


def _agreement(pairs: Sequence[tuple[int, int]]) -> dict[str, Any]:
    kappa = cohens_kappa(pairs)
    return dict(
        both=len(pairs),
        equal=sum(one == other for one, other in pairs),
        kappa=None if kappa is None else round(kappa, 6),
    )


def _rater_file(folder: Path, rater: str) -> Path:
    return folder / f'marks-{rater}.json'


def _stored_marks(path: Path) -> Marks:
    """Marks that a folder stores.

    Raises:
        ValueError: The file is damaged.
    """
    stored = read_marks(path)
    # on some systems marks-Ann.json and marks-ann.json are one file
    (rater,) = [*stored.raters][:1]
    if _rater_file(path.parent, rater).name != path.name:
        raise ValueError(
            f'{path} has marks of {rater}; give another name as rater.'
        )
    return stored


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
