# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Bar plots as inline SVG, so that a report needs no other file."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from .statistics import Bar

_WIDTH, _HEIGHT = 340, 180
_LEFT, _TOP, _BOTTOM = 12, 34, 24
_COLOUR, _OVER_COLOUR = '#3572b0', '#c4442e'


def histogram_plot(
    title: str,
    bars: Sequence[Bar],
    summary: Mapping[str, Any],
    limit: float | None = None,
) -> str:
    """Draw a histogram.

    Args:
        title: What was measured.
        bars: The bars.
        summary: See :meth:`~.statistics.Numbers.summary`.
        limit: Bars above it have another colour; None for no limit.
    """
    details = ', '.join(
        f'{name} {summary[name]:g}' for name in ('median', 'p95', 'max')
    )
    shapes = []
    width = (_WIDTH - 2 * _LEFT) / max(len(bars), 1)
    top = max((bar.number for bar in bars), default=1) or 1
    for i, bar in enumerate(bars):
        colour = _COLOUR
        if limit is not None and bar.low > limit:
            colour = _OVER_COLOUR
        name = f'{bar.low:g} to {bar.high:g}: {bar.number:,}'
        shapes.append(
            _bar(_LEFT + i * width, width, bar.number / top, colour, name)
        )
    labels = _label(_LEFT, f'{bars[0].low:g}', 'start') + _label(
        _WIDTH - _LEFT, f'{bars[-1].high:g}', 'end'
    )
    return _figure(title, details, ''.join(shapes) + labels)


def bar_plot(title: str, counts: Mapping[str, int], max_bars: int = 8) -> str:
    """Draw a bar for each of the largest counts.

    Args:
        title: What was counted.
        counts: Counts by name.
        max_bars: The most bars.
    """
    ordered = sorted(counts.items(), key=lambda pair: -pair[1])[:max_bars]
    top = max((count for _, count in ordered), default=1) or 1
    width = (_WIDTH - 2 * _LEFT) / max(len(ordered), 1)
    shapes = []
    for i, (name, count) in enumerate(ordered):
        x = _LEFT + i * width
        text = f'{name}: {count:,}'
        shapes.append(_bar(x, width, count / top, _COLOUR, text))
        shapes.append(_label(x + width / 2, name[:12], 'middle'))
    return _figure(title, f'{len(counts)} kinds', ''.join(shapes))


def _bar(x: float, width: float, share: float, colour: str, title: str) -> str:
    room = _HEIGHT - _TOP - _BOTTOM
    height = max(share * room, 1 if share else 0)
    return (
        f'<rect x="{x + 0.5:.1f}" y="{_TOP + room - height:.1f}" '
        f'width="{max(width - 1, 0.5):.1f}" height="{height:.1f}" '
        f'fill="{colour}"><title>{escape(title)}</title></rect>'
    )


def _label(x: float, text: str, anchor: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{_HEIGHT - 8}" text-anchor="{anchor}">'
        f'{escape(text)}</text>'
    )


def _figure(title: str, details: str, content: str) -> str:
    return (
        f'<svg width="{_WIDTH}" height="{_HEIGHT}" role="img" '
        f'viewBox="0 0 {_WIDTH} {_HEIGHT}"><text x="{_LEFT}" y="14" '
        f'font-weight="600">{escape(title)}</text><text x="{_LEFT}" y="28">'
        f'{escape(details)}</text>{content}</svg>'
    )
