# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The report of a check: one HTML page that loads nothing external."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ..utils.errors import printable
from ..utils.html_page import HtmlPage
from .duplicates import ImageGroup
from .image_facts import thumbnail_url
from .limits import KINDS
from .problems import Problems
from .scan import Scan
from .statistics import Numbers
from .summary import image_numbers
from .svg_plots import bar_plot, histogram_plot

_ROWS = 200  # of the table of a kind of problem
_GROUPS = 12  # of similar images that are shown
_GROUP_IMAGES = 6
_SIDE = 160  # pixels of an image
_TEXT = 400  # characters of a text


def write_report(
    path: Path,
    summary: Mapping[str, Any],
    scan: Scan,
    groups: Sequence[ImageGroup],
) -> None:
    """Write the page.

    Args:
        path: The HTML file.
        summary: The figures; see :func:`~.summary.summarise`.
        scan: What was read.
        groups: Groups of equal or similar images.

    Raises:
        OSError: It cannot be written.
    """
    title = f'Check of {", ".join(summary["sources"])}'
    body = [
        f'<h1>{_text(title)}</h1>',
        _verdict(summary),
        _facts(summary),
        _problem_counts(summary),
        _plots(summary, scan),
        '<h2>Samples</h2>',
        '<p>Drawn at random.</p>',
        _samples(scan),
        _groups(scan, groups),
        *_problem_tables(scan.problems),
        _differences(summary),
    ]
    style = Path(__file__).with_suffix('.css').read_text('utf-8')
    page = HtmlPage(title, 'a report of a check', style)
    page.write(path, filter(None, body))


def _text(text: str) -> str:
    """Escape a text of the data."""
    return escape(printable(text))


def _cell(text: str) -> str:
    """A table cell with a text in its own direction."""
    return f'<td dir="auto">{_text(text)}</td>'


def _table(header: Sequence[str], rows: Iterable[str]) -> str:
    head = ''.join(f'<th>{escape(name)}</th>' for name in header)
    body = '\n'.join(f'<tr>{row}</tr>' for row in rows)
    return f'<table>\n<tr>{head}</tr>\n{body}\n</table>'


def _verdict(summary: Mapping[str, Any]) -> str:
    exceeded = [k for k, p in summary['problems'].items() if p['exceeded']]
    text, kind = 'accepted', 'good'
    if exceeded:
        text = f'more problems than accepted: {", ".join(exceeded)}'
        kind = 'bad'
    elif summary['differences']:
        text, kind = 'the data are not those of the manifest', 'bad'
    if not summary['complete']:
        text += ' (stopped before all data were read)'
    return (
        f'<p class="{kind}">Result: {text}</p>\n<p>{_text(summary["tool"])}, '
        f'{_text(summary["created"])}</p>'
    )


def _facts(summary: Mapping[str, Any]) -> str:
    rows = [
        ('records', f'{summary["records"]:,}'),
        ('valid records', f'{summary["valid"]:,}'),
        ('turns', f'{summary["turns"]:,}'),
        ('different images', f'{summary["images"]:,}'),
        ('different texts', f'{summary["different_texts"]:,}'),
        (
            'scripts of the texts',
            ', '.join(f'{n:,} {s}' for s, n in summary['scripts'].items()),
        ),
    ]
    if model := summary['model']:
        rows.append(
            (
                'lengths are those of',
                f'{model["name"]} (template {model["template"]}, '
                f'{model["image_tokens"]} tokens for an image)',
            )
        )
        rows.append(
            (
                f'answers over max_text_length ({model["max_text_length"]})',
                _share(summary['share_over_max_text_length']),
            )
        )
        rows.append(
            (
                f'prompts over the context ({model["context_length"]})',
                _share(summary['share_over_context']),
            )
        )
    parts = [
        (
            name,
            f'{part["records"]:,} records, {part["kind"]}'
            + (', held out' if part['held_out'] else ''),
        )
        for name, part in summary['parts'].items()
    ]
    notes = ''.join(f'<p>Note: {_text(n)}</p>' for n in summary['ignored'])
    return (
        '<h2>Content</h2>\n'
        + _table(
            ('fact', 'value'), (_cell(a) + _cell(b) for a, b in rows + parts)
        )
        + notes
    )


def _share(value: float | None) -> str:
    return 'no limit' if value is None else f'{100 * value:.2f} %'


def _problem_counts(summary: Mapping[str, Any]) -> str:
    rows = []
    for kind, found in summary['problems'].items():
        limit = 'any'
        if found['limit'] is not None:
            percent = '%' if found['limit']['percent'] else ''
            limit = f'{found["limit"]["value"]:g}{percent}'
        name = _text(kind)
        if found['count']:
            name = f'<a href="#{name}">{name}</a>'
        state = 'bad' if found['exceeded'] else ''
        rows.append(
            f'<td class="{state}">{name}</td>'
            + _cell(found['title'])
            + f'<td>{found["count"]:,}</td>'
            + f'<td>{100 * found["share"]:.2f} %</td><td>{limit}</td>'
        )
    header = ('kind', 'meaning', 'count', 'share', 'accepted')
    return '<h2>Problems</h2>\n' + _table(header, rows)


def _plots(summary: Mapping[str, Any], scan: Scan) -> str:
    plots: dict[str, tuple[Numbers, float | None]] = {
        'words of an answer': (scan.words, None),
    }
    if model := summary['model']:
        plots['tokens of an answer'] = (
            scan.answer_tokens,
            model['max_text_length'],
        )
        plots['tokens of a prompt'] = (
            scan.prompt_tokens,
            model['context_length'],
        )
    titles = dict(
        width='width in pixels',
        height='height in pixels',
        aspect_ratio='width / height',
        kilobytes='size in kB',
    )
    for name, numbers in image_numbers(scan).items():
        plots[titles[name]] = (numbers, None)
    figures = [
        histogram_plot(title, numbers.histogram(), numbers.summary(), limit)
        for title, (numbers, limit) in plots.items()
        if len(numbers.values)
    ]
    if scan.scripts:
        figures.append(bar_plot('script of the text', scan.scripts))
    return (
        '<h2>Statistics</h2>\n<div class="plots">'
        + '\n'.join(figures)
        + '</div>'
    )


def _image(url: str, caption: str) -> str:
    image = (
        f'<img src="{url}" alt="">' if url else '<div class="none">none</div>'
    )
    return (
        f'<figure>{image}<figcaption dir="auto">{caption}</figcaption>'
        '</figure>'
    )


def _samples(scan: Scan) -> str:
    figures = []
    for item in scan.samples:
        url = thumbnail_url(item.images[0], _SIDE) if item.images else ''
        texts = [
            f'<b>{_text(turn.question[:_TEXT])}</b> '
            f'{_text((turn.answer or "")[:_TEXT])}'
            for turn in item.turns
        ]
        if item.error is not None:
            texts.append(f'<span class="bad">{_text(item.error)}</span>')
        name = f'<small>{_text(item.name)}</small><br>'
        figures.append(_image(url, name + '<br>'.join(texts)))
    return f'<div class="images">{"".join(figures)}</div>'


def _groups(scan: Scan, groups: Sequence[ImageGroup]) -> str:
    shown = [group for group in groups if group.own > 1]
    if not shown:
        return ''
    rows = []
    for group in shown[:_GROUPS]:
        refs = scan.known.refs(group.images[:_GROUP_IMAGES])
        images = [
            _image(thumbnail_url(ref, _SIDE), _text(ref.name)) for ref in refs
        ]
        kind = 'equal files' if group.exact else 'similar images'
        rows.append(
            f'<p>{kind}: {len(group.images)}</p><div class="images">'
            f'{"".join(images)}</div>'
        )
    return (
        f'<h2>Equal and similar images</h2>\n<p>{len(shown):,} groups; the '
        f'first {min(len(shown), _GROUPS)}:</p>\n' + '\n'.join(rows)
    )


def _problem_tables(problems: Problems) -> Iterable[str]:
    for kind, facts in KINDS.items():
        own = problems.first.get(kind)
        if not own:
            continue
        rows = (_cell(p.name) + _cell(p.reason) for p in own[:_ROWS])
        more = ''
        if problems.entries[kind] > _ROWS:
            number = problems.entries[kind] - _ROWS
            more = f'<p>{number:,} more are in problems.jsonl.</p>'
        yield (
            f'<h2 id="{kind}">{escape(facts.title.capitalize())}</h2>\n'
            + _table(('record or image', 'reason'), rows)
            + more
        )


def _differences(summary: Mapping[str, Any]) -> str:
    found = summary['differences']
    if not found:
        return ''
    rows = (_cell(d['name']) + _cell(d['change']) for d in found[:_ROWS])
    return '<h2>Differences from the manifest</h2>\n' + _table(
        ('file or image', 'change'), rows
    )
