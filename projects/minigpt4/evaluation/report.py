# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The report of an evaluation: scores and published figures, one page.

Every text is escaped, and the page runs no script.
"""

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..datasets.image_folder import ImageFolder
from ..images.thumbnail import data_url, thumbnail_of_file
from ..utils.errors import short_json
from ..utils.html_page import HtmlPage, html_text
from ..utils.json_files import read_json_lines
from .compared_folder import check_complete
from .result_folder import SUMMARY_FILE, format_score, read_summary

SAMPLES = 6  # shown of each folder
_SIDE = 320  # pixels of a thumbnail
_SHOWN = 1200  # characters of a text
_WIDTH, _ROW = 320, 18  # pixels of a plot and of one of its rows
_PAGE = HtmlPage(
    'Evaluation report',
    'a report of an evaluation',
    style="""
svg { display: block; max-width: 100%; }
.line { stroke: var(--line); }
.ours { fill: var(--ours); stroke: var(--ours); }
.others { fill: var(--others); }
""",
)


class Result(NamedTuple):
    """The results of one folder.

    Attributes:
        name: Name of the recipe, or of the folder.
        summary: Content of ``summary.json``.
        rows: Some raw results.
    """

    name: str
    summary: dict[str, Any]
    rows: list[dict[str, Any]]


class Figure(NamedTuple):
    """A published figure."""

    score: str
    value: float
    what: str
    source: str


def read_result(folder: Path, name: str | None = None) -> Result:
    """Read the scores and the first raw results of a folder.

    Raises:
        ValueError: The folder has no scores, they do not belong to its
            settings, or it has fewer results than they count.
        OSError: A file cannot be read.
    """
    if not folder.is_dir():
        found = 'is not a folder' if folder.exists() else 'does not exist'
        raise FileNotFoundError(
            f'{folder} {found}; expected the -o of "minigpt4 eval PROTOCOL".'
        )
    summary = read_summary(folder)
    try:
        summary['scores'] = _flat_scores(
            summary['tasks' if 'tasks' in summary else 'scores']
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f'{folder / SUMMARY_FILE} is not the scores of an evaluation; '
            'the command that made it writes it again.'
        ) from error
    check_complete(folder, summary)
    rows: list[dict[str, Any]] = []
    for file in sorted(folder.glob('*.jsonl')):
        for number, row in read_json_lines(file):
            if not isinstance(row, dict):
                raise ValueError(
                    f'{file}: line {number} is no result ({short_json(row)}); '
                    'remove the folder, or give another one.'
                )
            if row.get('error') is None:
                rows.append(row)
            if len(rows) == SAMPLES:
                break
    return Result(name or folder.name, summary, rows[:SAMPLES])


def published_figures(name: str, protocol: str) -> list[Figure]:
    """The published figures of a protocol.

    Args:
        name: Name of the recipe, such as ``pope-random``; figures of other
            recipes of the protocol are not returned.
        protocol: The protocol.
    """
    return [
        Figure(f['score'], f['value'], f['what'], f['source'])
        for f in _all_figures()
        if f['protocol'] == protocol and f.get('name', name) == name
    ]


def write_report(
    path: Path,
    results: Sequence[Result],
    title: str,
    omitted: Sequence[str] = (),
) -> None:
    """Write the page; a failure leaves the old file.

    Args:
        path: The HTML file.
        results: The results, in their order.
        title: Title of the page.
        omitted: What was not measured, and why.

    Raises:
        OSError: It cannot be written.
    """
    _PAGE.write(path, _content(results, title, omitted))


def check_report(path: Path) -> None:
    """Refuse to replace a file that is no report.

    Raises:
        ValueError: The file exists and is not a report of an evaluation.
    """
    _PAGE.check(path)


def _flat_scores(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Scores by name; those of a task or prompt have both names."""
    found: dict[str, Any] = {}
    for name, value in scores.items():
        if not isinstance(value, dict):
            continue  # a number of answers
        if 'value' in value:
            if not isinstance(value['value'], float | int | None):
                raise ValueError(f'{name} is no number')
            # a score that few resamples define has no interval
            if value['value'] is not None and value['interval'] is not None:
                low, high = map(float, value['interval'])
                value['interval'] = [low, high]
            found[name] = value
        else:
            for part, score in _flat_scores(value).items():
                found[f'{name}, {part}'] = score
    return found


@functools.cache
def _all_figures() -> list[dict[str, Any]]:
    path = Path(__file__).with_name('published_figures.json')
    return json.loads(path.read_text('utf-8'))


def _content(
    results: Sequence[Result], title: str, omitted: Sequence[str]
) -> Iterator[str]:
    yield f'<h1>{html_text(title)}</h1>'
    if omitted:
        yield '<h2>Not measured</h2><ul>'
        yield from (f'<li>{html_text(reason)}</li>' for reason in omitted)
        yield '</ul>'
    for result in results:
        yield from _result(result)


def _result(result: Result) -> Iterator[str]:
    summary = result.summary
    protocol = summary['protocol']
    figures = published_figures(result.name, protocol)
    yield f'<h2>{html_text(result.name)}</h2>'
    yield f'<p class="dim">{html_text(_counts(summary))}</p>'
    yield (
        '<table><tr><th>score</th><th class="n">value</th>'
        '<th class="n">95 % interval</th><th>published</th></tr>'
    )
    for name, score in summary['scores'].items():
        published = ', '.join(
            f'{_number(f.value, name)} ({f.what}; {f.source})'
            for f in figures
            if f.score == name
        )
        value = interval = 'not defined'
        if score['value'] is not None:
            value = _number(score['value'], name)
            if score['interval'] is not None:
                low, high = score['interval']
                interval = f'{_number(low, name)} to {_number(high, name)}'
        yield (
            f'<tr><td>{html_text(name)}</td><td class="n">{value}</td>'
            f'<td class="n">{interval}</td>'
            f'<td>{html_text(published)}</td></tr>'
        )
    yield '</table>'
    yield from _plots(summary['scores'], figures)
    settings = json.dumps(summary['settings'], ensure_ascii=False, indent=1)
    yield '<details><summary>Settings</summary>'
    yield f'<pre>{html_text(settings)}</pre></details>'
    finder = ImageFolder(str(summary.get('image_folder', '.')))
    for row in result.rows:
        yield _sample(row, finder)


def _counts(summary: Mapping[str, Any]) -> str:
    """The numbers of the summary in one line."""
    numbers = [
        f'{name.replace("_", " ")} {value:,}'
        for name, value in summary.items()
        if type(value) is int
    ]
    return ', '.join([f'protocol {summary["protocol"]}', *numbers])


def _plots(
    scores: Mapping[str, Any], figures: Sequence[Figure]
) -> Iterator[str]:
    """A plot of each share with published figures: 0 to 1."""
    for name, score in scores.items():
        own = [f for f in figures if f.score == name]
        value = score['value']
        if not own or value is None or max(value, *(f.value for f in own)) > 1:
            continue
        rows = [('here', value, score['interval'])]
        rows += [(f.what, f.value, None) for f in own]
        height = _ROW * len(rows) + 4
        parts = [
            f'<svg viewBox="0 0 {2 * _WIDTH} {height}" width="{2 * _WIDTH}" '
            f'role="img" aria-label="{html_text(name)}">'
        ]
        for i, (label, number, interval) in enumerate(rows):
            y = _ROW * i + _ROW // 2
            parts.append(
                f'<line class="line" x1="0" x2="{_WIDTH}" y1="{y}" y2="{y}"/>'
            )
            kind = 'others' if i else 'ours'
            if interval is not None:
                low, high = (_WIDTH * end for end in interval)
                parts.append(
                    f'<line class="ours" stroke-width="3" x1="{low:.1f}" '
                    f'x2="{high:.1f}" y1="{y}" y2="{y}"/>'
                )
            parts.append(
                f'<circle class="{kind}" r="5" cx="{_WIDTH * number:.1f}" '
                f'cy="{y}"/><text x="{_WIDTH + 12}" y="{y + 4}" '
                f'font-size="12" fill="currentColor">{html_text(label)}</text>'
            )
        parts.append('</svg>')
        yield f'<p class="dim">{html_text(name)}, 0 to 1</p>' + ''.join(parts)


def _sample(row: Mapping[str, Any], finder: ImageFolder) -> str:
    """An image with its question and answer."""
    name = str(row.get('file') or row.get('image') or row.get('image_id', ''))
    lines = [f'<p class="dim">{html_text(name)}</p>']
    for label, key in (
        ('', 'prompt'),
        ('', 'answer'),
        ('', 'caption'),
        ('Truth: ', 'truth'),
        ('Choices: ', 'choices'),
        ('Log-likelihoods: ', 'log_likelihoods'),
    ):
        if (value := row.get(key)) not in (None, ''):
            text = value
            if not isinstance(value, str):
                text = json.dumps(value, ensure_ascii=False)
            shown = text[:_SHOWN] + '…' * (len(text) > _SHOWN)
            content = html_text(shown)
            if key in ('answer', 'caption'):
                content = f'<b>{content}</b>'
            lines.append(f'<p>{label}{content}</p>')
    image = '<div class="none"></div>'
    try:
        jpeg = thumbnail_of_file(finder.find(name), _SIDE)
    except (OSError, ValueError):
        pass  # the report stays readable without an image
    else:
        image = f'<img alt="" src="{data_url(jpeg)}">'
    caption = ''.join(lines)
    return f'<figure>{image}<figcaption>{caption}</figcaption></figure>'


def _number(value: float, score: str) -> str:
    """A share as a percentage; other scores as they are."""
    unit = '%' if 0 <= value <= 1 and score not in ('words', 'loss') else ''
    text = format_score(dict(value=value, interval=[value, value]), unit)
    return text.partition(' (')[0]
