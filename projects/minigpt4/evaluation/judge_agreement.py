# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""How far two judges agree, from two result folders of one protocol."""

from collections import Counter
from pathlib import Path
from typing import Any

from ..utils.errors import printable, short_json
from ..utils.json_files import read_json_lines
from .judge import JUDGEMENTS_FILE, decisions, judge_facts, usable
from .kappa import cohens_kappa

_FIELDS = dict(
    key=str,
    answer=str,
    model=str,
    date=str,
    prompt_tokens=int,
    completion_tokens=int,
    cost_usd=int | float,
)
_SAME = ('reference', 'caption', 'prompt', 'generated')


def compare_judges(
    first: Path, second: Path, parser: str = 'first-word'
) -> dict[str, Any]:
    """Compare the judgements of two folders.

    Only images whose reference and caption are the same in both are
    compared. An answer without yes or no is a decision of its own.

    Returns:
        ``judges`` (two names), ``both``, ``equal``, ``other_texts`` (images
        of both folders with other texts), ``agreement`` (equal / both),
        ``kappa`` (None where it is not defined) and ``table`` (how often
        each pair of decisions occurs).

    Raises:
        ValueError: A folder has no judgements, or no image is in both.
        OSError: A file cannot be read.
    """
    sides = [_read(folder) for folder in (first, second)]
    texts = [
        {r['key']: [r.get(n) for n in _SAME] for r in usable(rows)}
        for rows in sides
    ]
    found = [decisions(rows, parser)[0] for rows in sides]
    common = [key for key in found[0] if key in found[1]]
    keys = [key for key in common if texts[0][key] == texts[1][key]]
    if not keys:
        raise ValueError(
            f'{first} and {second} have no decisions about the same texts '
            f'({len(found[0]):,} and {len(found[1]):,} decisions); expected '
            'two folders of one protocol with the same captions and the same '
            '--reference and --reference-seed.'
        )
    pairs = [(found[0][key], found[1][key]) for key in keys]
    equal = sum(one == other for one, other in pairs)
    kappa = cohens_kappa(pairs)
    table = Counter(f'{one}, {other}' for one, other in pairs)
    return dict(
        judges=[judge_facts(rows)['model'] for rows in sides],
        both=len(keys),
        equal=equal,
        other_texts=len(common) - len(keys),
        agreement=round(equal / len(keys), 6),
        kappa=None if kappa is None else round(kappa, 6),
        table=dict(sorted(table.items())),
    )


def print_agreement(found: dict[str, Any]) -> None:
    """Print what :func:`compare_judges` returns."""
    one, other = found['judges']
    print(
        printable(
            f'{found["both"]:,} judgements of {one} and of {other} about the '
            'same texts'
        )
    )
    print(f'equal        {found["equal"]:,} ({found["agreement"]:.2%})')
    kappa = found['kappa']
    shown = 'not defined' if kappa is None else f'{kappa:.3f}'
    print(f"Cohen's kappa  {shown}")
    for pair, number in found['table'].items():
        print(f'{pair:20}{number:,}')
    if found['other_texts']:
        print(f'not compared: {found["other_texts"]:,} with other texts')


def _read(folder: Path) -> list[dict[str, Any]]:
    path = folder / JUDGEMENTS_FILE
    if not path.is_file():
        raise ValueError(
            f'{folder} has no {JUDGEMENTS_FILE}; give the -o of "minigpt4 '
            'eval coverage" or of "minigpt4 eval abilities" with a judge.'
        )
    rows = []
    for number, row in read_json_lines(path):
        if not isinstance(row, dict) or not all(
            isinstance(row.get(name), kind) for name, kind in _FIELDS.items()
        ):
            raise ValueError(
                f'{path}: line {number} is no judgement '
                f'({short_json(row)}); remove it, and run the command of the '
                'folder again.'
            )
        rows.append(row)
    return rows
