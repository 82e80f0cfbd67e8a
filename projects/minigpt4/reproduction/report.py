# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The report of a reproduction: one HTML page, and its tables in Markdown."""

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from ..datasets.skip_summary import counted
from ..images.read import SampleError
from ..images.thumbnail import data_url, thumbnail_of_file
from ..utils.atomic import write_atomically
from ..utils.errors import printable
from ..utils.html_page import HtmlPage, html_text
from ..utils.json_files import read_json
from ..utils.regular_files import read_regular
from .claims import Scores
from .plan import Plan, Run
from .setups import Example, Setup, Test
from .steps import Step, done_file, printed_lines
from .tables import Table, all_tables, markdown

_PAGE = HtmlPage(
    'Reproduction report',
    'a report of a reproduction',
    style="""
img.wide { max-width: 100%; background: #fff; }
""",
)
_EXAMPLES = 12
_SIDE = 160  # pixels of a thumbnail
PAGE, TABLES, SCORES = 'report.html', 'tables.md', 'scores.json'
# how the files begin
_TABLES_MARK = b'command: minigpt4 reproduce'
_SCORES_MARK = b'{\n "facts": {'
# what a file of another content can raise when it is read
_UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError)


def read_scores(
    setup: Setup, runs: Sequence[Run], folder: Path, problems: list[str]
) -> Scores:
    """Read the scores of the tests that have ended.

    Args:
        setup: What was trained.
        runs: The runs.
        folder: The folder in which the steps ran.
        problems: Gets those of results that cannot be read.

    Returns:
        Scores by training and seed.
    """
    found: dict[tuple[str, int], dict[str, float | None]] = {}
    for run in runs:
        for test in setup.tests:
            if not _has_ended(run, test, folder):
                continue
            results = folder / run.results[test.name]
            try:
                scores = test.read(results)
            except FileNotFoundError:
                continue
            except _UNREADABLE as error:
                problems.append(_problem(run, test, results, error))
                continue
            found.setdefault((run.training.name, run.seed), {}).update(scores)
    return found


def _problem(run: Run, test: Test, results: Path, error: Exception) -> str:
    """Why results cannot be read, and what to do."""
    reason = str(error).rstrip('.')
    if not isinstance(error, ValueError):  # its text names the file
        reason = (
            f'{printable(str(results))} does not have the files of a test '
            f'({type(error).__name__}: {reason})'
        )
    return (
        f'{run.test_step(test.name)}: {reason}; delete it, and the same '
        'command tests again'
    )


def _has_ended(run: Run, test: Test, folder: Path) -> bool:
    """Whether the results of a test are complete."""
    return done_file(folder, run.test_step(test.name)).exists()


def check_report(out: Path) -> None:
    """Refuse to replace files that are no report.

    Raises:
        ValueError: ``report.html``, ``tables.md`` or ``scores.json`` exists
            and is something else.
        OSError: One cannot be read.
    """
    _PAGE.check(out / PAGE)
    for name, mark in ((TABLES, _TABLES_MARK), (SCORES, _SCORES_MARK)):
        path = out / name
        if path.exists() and not read_regular(path).startswith(mark):
            raise ValueError(
                f'{printable(str(path))} exists and is not of a reproduction; '
                'give another folder.'
            )


def write_report(
    out: Path,
    folder: Path,
    plan: Plan,
    facts: Mapping[str, Any],
    problems: Sequence[str],
) -> list[str]:
    """Write ``report.html``, ``tables.md`` and ``scores.json``.

    Args:
        out: The folder for them.
        folder: The folder in which the steps ran.
        plan: What was trained.
        facts: Command (first) and date, for the top of the page.
        problems: Steps that failed or did not run, and why.

    Returns:
        Further problems: results and images that cannot be read.

    Raises:
        OSError: A file cannot be written.
    """
    setup, runs = plan.setup, plan.runs
    found: list[str] = []
    scores = read_scores(setup, runs, folder, found)
    extras = [
        *_curves(folder, plan.curves),
        *_examples(setup, runs, folder, found),
    ]
    found = list(dict.fromkeys(found))  # an image may be shown twice
    # paths may have line breaks, and bytes that are not UTF-8
    problems = [printable(problem) for problem in (*problems, *found)]
    facts = {name: printable(str(value)) for name, value in facts.items()}
    places = {(r.training.name, r.seed): str(r.folder) for r in runs}
    seeds = sorted({run.seed for run in runs})
    tables = all_tables(setup, scores, seeds)
    # a changed config gives another folder of its runs
    folders = ' '.join(str(run.folder) for run in runs).encode()
    digest = hashlib.sha256(folders).hexdigest()[:8]
    facts = {
        **facts,
        'steps ended': _days(folder, plan.steps),
        'machine': _recorded(folder, plan.steps, 'machine'),
        'versions': _recorded(folder, plan.steps, 'versions'),
        'folder': folder.name,
        'settings': digest,
    }
    lines = [f'{name}: {value}  ' for name, value in facts.items()]
    if problems:
        lines += ['', '## Not finished', '']
        lines += [f'- {problem}' for problem in problems]
    lines += ['', *markdown(tables)]
    write_atomically(out / TABLES, '\n'.join(lines).encode())
    rows = [
        dict(
            training=training,
            seed=seed,
            folder=places[training, seed],
            **values,
        )
        for (training, seed), values in scores.items()
    ]
    content = dict(facts=facts, problems=problems, scores=rows)
    write_atomically(out / SCORES, json.dumps(content, indent=1).encode())
    parts = _content(tables, facts, problems)
    _PAGE.write(out / PAGE, [*parts, *extras])
    return found


def _days(folder: Path, steps: Sequence[Step]) -> str:
    """The days on which the first and the last of the steps ended."""
    times = [
        record.stat().st_mtime
        for step in steps
        if (record := done_file(folder, step.name)).exists()
    ]
    if not times:
        return 'none'
    first, last = map(date.fromtimestamp, (min(times), max(times)))
    return str(first) if first == last else f'{first} to {last}'


def _recorded(folder: Path, steps: Sequence[Step], key: str) -> str:
    """What the records of the steps have under a key, with their number.

    One command may have run on another machine than the one before.
    """
    found: Counter[str] = Counter()
    for step in steps:
        record = done_file(folder, step.name)
        if record.exists():
            try:
                value = read_json(record, 'the record of a step').get(key)
            except (OSError, ValueError, AttributeError):
                value = None  # damaged
            known = isinstance(value, str) and value
            found[value if known else 'not recorded'] += 1
    if len(found) < 2:
        return ''.join(found) or 'none'
    return '; '.join(
        f'{value} ({counted(number, "step")})'
        for value, number in found.most_common()
    )


def _content(
    tables: Sequence[Table],
    facts: Mapping[str, Any],
    problems: Sequence[str],
) -> Iterator[str]:
    yield '<h1>The paper in miniature</h1><p class="dim">'
    yield '<br>'.join(
        f'{html_text(name)}: {html_text(value)}'
        for name, value in facts.items()
    )
    yield '</p>'
    if problems:
        yield '<h2>Not finished</h2><ul>'
        yield from (f'<li>{html_text(text)}</li>' for text in problems)
        yield '</ul>'
    for table in tables:
        yield f'<h2>{html_text(table.title)}</h2>'
        yield f'<p class="dim">{html_text(table.note)}</p><table><tr>'
        yield from (f'<th>{html_text(cell)}</th>' for cell in table.header)
        yield '</tr>'
        for row in table.rows:
            cells = ''.join(f'<td>{html_text(cell)}</td>' for cell in row)
            yield f'<tr>{cells}</tr>'
        yield '</table>'


def _curves(folder: Path, curves: Path) -> Iterator[str]:
    """The curves, and which trainings have none."""
    path = folder / curves
    lines = printed_lines(folder, curves.stem)
    absent = [line for line in lines if ': no curve, ' in line]
    if path.exists() or absent:
        yield '<h2>Curves of the first seed</h2>'
    if path.exists():
        code = base64.b64encode(path.read_bytes()).decode()
        source = f'data:image/svg+xml;base64,{code}'
        yield f'<img class="wide" alt="" src="{source}">'
    yield from (f'<p class="dim">{html_text(line)}</p>' for line in absent)


def _examples(
    setup: Setup, runs: Sequence[Run], folder: Path, problems: list[str]
) -> Iterator[str]:
    """Answers before and after stage 2 about the same images.

    They are of the first seed for which both have answers.
    """
    for seed in sorted({run.seed for run in runs}):
        before, after = (
            _answers(name, seed, setup, runs, folder, problems)
            for name in ('stage1', 'stage2')
        )
        if shown := [key for key in before if key in after]:
            break
    else:
        return
    yield f'<h2>Answers before and after stage 2, seed {seed}</h2>'
    for key in shown[:_EXAMPLES]:
        example = before[key]
        yield '<figure>'
        try:
            source = data_url(thumbnail_of_file(str(example.image), _SIDE))
            yield f'<img alt="" src="{source}">'
        except SampleError:
            problems.append(
                f'{printable(str(example.image))} cannot be read as an image, '
                'so the report lacks it; repair or delete it, and give the '
                'same command again'
            )
        yield (
            f'<figcaption><p class="dim">{html_text(example.task)}</p>'
            f'<p>Before: {html_text(example.answer)}</p>'
            f'<p>After: <b>{html_text(after[key].answer)}</b></p>'
        )
        if example.right:
            yield f'<p class="dim">Right: {html_text(example.right)}</p>'
        yield '</figcaption></figure>'


def _answers(
    name: str,
    seed: int,
    setup: Setup,
    runs: Sequence[Run],
    folder: Path,
    problems: list[str],
) -> dict[str, Example]:
    """The answers of a training with a seed; empty without a test."""
    for run in runs:
        if (run.training.name, run.seed) != (name, seed):
            continue
        for test in setup.tests:
            if not _has_ended(run, test, folder):
                continue
            results = folder / run.results[test.name]
            try:
                if found := {e.key: e for e in test.examples(folder, results)}:
                    return found
            except FileNotFoundError:
                continue
            except _UNREADABLE as error:
                problems.append(_problem(run, test, results, error))
    return {}
