# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Lines and tables of a comparison, for the terminal and the page."""

from typing import Any

from ..utils.errors import printable, short_json
from .compare import Comparison, Pair


def folder_lines(comparison: Comparison) -> list[str]:
    """Which folders are compared, over which samples."""
    summary = comparison.summary
    unit = comparison.protocol.unit
    stored = comparison.protocol.stored
    without = '' if stored is None else stored.without
    lines = []
    for number, side in enumerate((summary['first'], summary['second']), 1):
        line = f'{number}: {side["folder"]}, {side["samples"]:,} {unit}'
        for name, text in (
            ('only_here', f'only in {number}, not compared'),
            ('failed', 'failed, not compared'),
            ('without_truth', f'{without}, not compared'),
        ):
            if side[name]:
                line += f'; {side[name]:,} {text}'
        lines.append(printable(line))
    lines.append(
        f'compared: {summary["samples"]:,} {unit} about '
        f'{summary["images"]:,} images'
    )
    return lines


def setting_rows(
    comparison: Comparison, max_characters: int = 34
) -> list[tuple[str, str, str]]:
    """Name and both values of each setting that differs."""

    def value(setting: Any) -> str:
        if setting is None:
            return 'not given'
        return short_json(setting, max_characters)

    return [
        (printable(row['name']), value(row['first']), value(row['second']))
        for row in comparison.summary['settings']
    ]


def score_rows(
    comparison: Comparison,
) -> list[tuple[str, str, str, str, str, str]]:
    """Label, both values, difference, its interval and p of each score."""
    rows = []
    for label, name, unit in comparison.labels:
        score = comparison.summary['scores'][name]
        low, high = score['interval'] or (None, None)
        interval = f'{_number(low, unit, "+")} to {_number(high, unit, "+")}'
        rows.append(
            (
                label,
                _number(score['first'], unit) + _percent(score['first'], unit),
                _number(score['second'], unit)
                + _percent(score['second'], unit),
                _number(score['difference'], unit, '+'),
                '' if score['interval'] is None else interval,
                '' if score['p'] is None else _p(score['p']),
            )
        )
    return rows


def good_line(comparison: Comparison) -> str:
    """How many samples are good in both, one and none of the results.

    The line is '' if the protocol does not tell which are good.
    """
    good = comparison.summary['good']
    if good is None:
        return ''
    return (
        f'{good["meaning"]}: {good["both"]:,} in both, '
        f'{good["only_first"]:,} only in 1, {good["only_second"]:,} only in '
        f'2, {good["neither"]:,} in neither; McNemar p {_p(good["p"])}'
    )


def _p(value: float) -> str:
    return '< 0.0001' if value < 0.0001 else f'{value:.4f}'


def pair_lines(pair: Pair, max_characters: int = 100) -> list[str]:
    """A sample that differs, in three lines."""

    def short(text: str) -> str:
        text = ' '.join(text.split())
        if len(text) > max_characters:
            text = text[: max_characters - 3] + '...'
        return printable(text)

    one, two = pair.first, pair.second
    same = one.prompt and one.prompt == two.prompt
    question = f': {one.prompt}' if same else ''
    truth = f' (truth: {short(one.truth)})' if one.truth else ''
    lines = [short(f'{one.key}{question}') + truth]
    for number, sample in enumerate((one, two), 1):
        note = f' ({short(sample.note)})' if sample.note else ''
        lines.append(f'  {number}: {short(sample.text) or "(empty)"}{note}')
    return lines


def _number(value: float | None, unit: str, sign: str = '') -> str:
    if value is None:
        return 'not defined'
    factor, digits = (100, 2) if unit == '%' else (1, 3)
    return f'{factor * value:{sign}.{digits}f}'


def _percent(value: float | None, unit: str) -> str:
    return ' %' if unit == '%' and value is not None else ''
