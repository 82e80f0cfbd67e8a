# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The report of a reproduction: one HTML page, and its tables in Markdown."""

import base64
import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..images.thumbnail import data_url, thumbnail_of_file
from ..utils.atomic import write_atomically
from ..utils.errors import printable
from ..utils.html_page import HtmlPage, html_text
from ..utils.regular_files import read_regular
from .claims import Scores
from .plan import Plan, Run
from .setups import Example, Setup
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


def read_scores(setup: Setup, runs: Sequence[Run], folder: Path) -> Scores:
    """Read the scores of the tests that have ended.

    Args:
        setup: What was trained.
        runs: The runs.
        folder: The folder in which the steps ran.

    Returns:
        Scores by training and seed, without those that are not defined.
    """
    found: dict[tuple[str, int], dict[str, float]] = {}
    for run in runs:
        for test in setup.tests:
            try:
                scores = test.read(folder / run.results[test.name])
            except FileNotFoundError:
                continue
            defined = {k: v for k, v in scores.items() if v is not None}
            found.setdefault((run.training.name, run.seed), {}).update(defined)
    return found


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
) -> None:
    """Write ``report.html``, ``tables.md`` and ``scores.json``.

    Args:
        out: The folder for them.
        folder: The folder in which the steps ran.
        plan: What was trained.
        facts: Command (first), date and machine, for the top of the page.
        problems: Steps that failed or did not run, and why.

    Raises:
        OSError: A file cannot be written.
    """
    setup, runs = plan.setup, plan.runs
    scores = read_scores(setup, runs, folder)
    places = {(r.training.name, r.seed): str(r.folder) for r in runs}
    seeds = sorted({run.seed for run in runs})
    tables = all_tables(setup, scores, seeds)
    # a changed config gives another folder of its runs
    folders = ' '.join(str(run.folder) for run in runs).encode()
    digest = hashlib.sha256(folders).hexdigest()[:8]
    facts = {**facts, 'folder': folder.name, 'settings': digest}
    lines = [f'{name}: {value}  ' for name, value in facts.items()]
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
    extras = [*_curves(folder / plan.curves), *_examples(setup, runs, folder)]
    _PAGE.write(out / PAGE, [*parts, *extras])


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


def _curves(path: Path) -> Iterator[str]:
    if path.exists():
        code = base64.b64encode(path.read_bytes()).decode()
        yield '<h2>Curves of the first seed</h2>'
        source = f'data:image/svg+xml;base64,{code}'
        yield f'<img class="wide" alt="" src="{source}">'


def _examples(
    setup: Setup, runs: Sequence[Run], folder: Path
) -> Iterator[str]:
    """Answers before and after stage 2 about the same images."""
    before, after = (
        _answers(name, setup, runs, folder) for name in ('stage1', 'stage2')
    )
    shown = [key for key in before if key in after]
    if shown:
        yield '<h2>Answers before and after stage 2</h2>'
    for key in shown[:_EXAMPLES]:
        example = before[key]
        source = data_url(thumbnail_of_file(str(example.image), _SIDE))
        yield (
            f'<figure><img alt="" src="{source}"><figcaption>'
            f'<p class="dim">{html_text(example.task)}</p>'
            f'<p>Before: {html_text(example.answer)}</p>'
            f'<p>After: <b>{html_text(after[key].answer)}</b></p>'
        )
        if example.right:
            yield f'<p class="dim">Right: {html_text(example.right)}</p>'
        yield '</figcaption></figure>'


def _answers(
    name: str, setup: Setup, runs: Sequence[Run], folder: Path
) -> dict[str, Example]:
    """The answers of the first seed of a training that was tested."""
    for run in runs:
        if run.training.name != name:
            continue
        for test in setup.tests:
            results = folder / run.results[test.name]
            with contextlib.suppress(FileNotFoundError):
                if found := {e.key: e for e in test.examples(folder, results)}:
                    return found
    return {}
