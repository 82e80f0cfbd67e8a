# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Failure rates of descriptions, by the rules of a curation.

```shell
# of the drafts in a ledger and of an export
python benchmarks/description_failures.py curation.sqlite out/filter_cap.json
# of a model before and after stage 2: files of "minigpt4 caption"
python benchmarks/description_failures.py before.jsonl after.jsonl
```

A ledger counts twice: the drafts (before the repair), and the texts that the
rules got. Other files have any layout of stage 2. An export that was not
edited passes the rules by construction; what the curation changes in a model
is what captions of images show that are not in the set.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from minigpt4.curation.failure_rates import FailureRates, measure_failures
from minigpt4.curation.history import histories
from minigpt4.curation.ledger import Ledger
from minigpt4.curation.pipeline import plan
from minigpt4.curation.rules import RulesSettings
from minigpt4.curation.selection import draft_of
from minigpt4.curation.settings import build_steps, load_settings
from minigpt4.datasets.parse_records import RecordError, read_record
from minigpt4.datasets.record_files import read_record_file


def main(argv: list[str] | None = None) -> int:
    """Measure and print; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('files', nargs='+', type=Path, metavar='FILE')
    parser.add_argument(
        '--skip', nargs='*', default=[], help='rules that are not counted'
    )
    parser.add_argument(
        '--min-words',
        type=int,
        default=RulesSettings().min_words,
        help='of the rule "length" (default: %(default)s)',
    )
    parser.add_argument(
        '--json', type=Path, metavar='FILE', help='write the numbers too'
    )
    args = parser.parse_args(argv)
    settings = RulesSettings(skip=tuple(args.skip), min_words=args.min_words)
    stems = Counter(path.stem for path in args.files)
    rates = {
        name: measure_failures(texts, settings)
        for path in args.files
        for name, texts in read_texts(
            path, path.stem if stems[path.stem] == 1 else str(path)
        ).items()
    }
    Console(width=120).print(make_table(rates))
    if args.json is not None:
        content = {name: found._asdict() for name, found in rates.items()}
        args.json.write_text(json.dumps(content, indent=1) + '\n')
    return 0


def read_texts(path: Path, name: str) -> dict[str, list[str]]:
    """Return the texts of a file by name.

    Args:
        path: A ledger, or a file of records.
        name: That of the file.
    """
    with open(path, 'rb') as file:
        is_ledger = file.read(15) == b'SQLite format 3'
    if not is_ledger:
        return {name: list(_record_texts(path))}
    drafts, repaired = [], []
    with Ledger(path) as ledger:
        planned = plan(ledger, build_steps(load_settings(ledger)))
        for history in histories(ledger, planned):
            if not history.texts:
                continue
            drafts.append(draft_of(history))
            before_rules = [
                text for step, text in history.texts.items() if step != 'rules'
            ]
            repaired.append(before_rules[-1])
    return {f'{name}: drafts': drafts, f'{name}: repaired': repaired}


def _record_texts(path: Path) -> Iterator[str]:
    items, file_names = read_record_file(path)
    for number, item in enumerate(items):
        try:
            record = read_record(item, number, file_names)
        except RecordError:
            yield ''  # e.g. an empty answer: it fails every measure
            continue
        yield record.content['turns'][0].answer


def make_table(rates: dict[str, FailureRates]) -> Table:
    """Return a table with a column for each set of texts."""
    table = Table(box=None, pad_edge=False)
    table.add_column('rule')
    for name in rates:
        table.add_column(name, justify='right')
    found = list(rates.values())
    table.add_row('texts', *(f'{rate.texts:,}' for rate in found))
    table.add_row('any', *(_cell(r.any_rule, r.texts) for r in found))
    for rule in found[0].by_rule:
        table.add_row(rule, *(_cell(r.by_rule[rule], r.texts) for r in found))
    return table


def _cell(count: int, total: int) -> str:
    return f'{count:,} ({count / total:.1%})' if total else '-'


if __name__ == '__main__':
    raise SystemExit(main())
