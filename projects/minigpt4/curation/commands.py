# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The actions ``add``, ``run`` and ``status`` of ``minigpt4 curate``."""

import argparse
import contextlib
import importlib.util
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table

from ..actors.cluster import use_ray
from ..captioning.image_sources import find_images
from ..evaluation.captioned_images import read_references
from ..evaluation.chair_run import read_truth
from ..loading import quiet_logs
from ..prompts.text_validation import check_characters
from ..utils.errors import printable, short_json
from ..utils.progress import progress_bar
from ..utils.signals import StopRequest, StopSignal, raise_on_signals
from .add_images import AddedImages, ImageNotes, add_images, sample_images
from .ledger import Ledger
from .pipeline import PlannedStep, StepCounts, count, plan, run_steps
from .repair_cost import estimate_run
from .settings import (
    STEP_NAMES,
    CurationSettings,
    build_steps,
    dump_settings,
    load_settings,
)

_PACKAGES = ('datasketch', 'ftfy', 'imagehash', 'lingua')
_NAMED_FAILURES = 10  # in the summary
_COUNT_SECONDS = 5.0  # a count reads the whole index
_NAMED_REASONS = 3  # of each step, in the table


def add(args: argparse.Namespace) -> int:
    """Run ``minigpt4 curate add``.

    Returns:
        0; 1 if a file is no readable image.

    Raises:
        ValueError: A source has no images, or a file of captions or objects
            has none of them.
        OSError: A file cannot be read or written.
    """
    require_packages()
    note = 'the images so far are kept; the same command continues'
    for option in ('captions', 'objects'):
        file = getattr(args, option)
        if file and not Path(file).exists():
            raise FileNotFoundError(
                f'--{option} {printable(str(file))} does not exist; give a '
                f'file of {option}.'
            )
    entries = sample_images(
        find_images(args.sources, args.recursive), args.limit, args.seed
    )
    notes = ImageNotes(
        args.source or '',
        args.licence or '',
        read_references(args.captions) if args.captions else {},
        read_truth(args.objects, part=True) if args.objects else {},
    )
    known = [notes.of(entry.image) for entry in entries]
    for entry, found in zip(entries, known, strict=True):
        _check_notes(found, entry.image, args)
    for name, file in (('captions', args.captions), ('objects', args.objects)):
        if file and not any(name in found for found in known):
            raise ValueError(
                f'{printable(str(file))} has {name} of none of the '
                f'{len(entries):,} images (such as '
                f'{printable(entries[0].image)}); expected their file names.'
            )
    bar = progress_bar(visible=not args.quiet)
    task = bar.add_task('reading images', total=len(entries))
    with raise_on_signals(note), Ledger(args.ledger) as ledger, bar:
        added = add_images(
            ledger,
            entries,
            notes,
            args.workers,
            lambda number: bar.update(task, advance=number),
        )
        total = ledger.num_images
    _print_added(added, total, args)
    return 1 if added.unreadable else 0


def _check_notes(
    notes: Mapping[str, Any], image: str, args: argparse.Namespace
) -> None:
    """Refuse half a character, which no file can hold, in notes."""
    for name, value in notes.items():
        given = getattr(args, name)
        where = f'--{name} {printable(str(given))}'
        if value is not given:  # of a file, for this image
            where += f', {printable(image)}: {short_json(value)}'
        for text in [value] if isinstance(value, str) else value:
            check_characters(text, where)


def run(args: argparse.Namespace) -> int:
    """Run ``minigpt4 curate run``.

    Returns:
        0; 1 if an image failed.

    Raises:
        ValueError: A setting is wrong, or the ledger has no images.
        StopSignal: A signal arrived; the results are stored.
        OSError: A file cannot be read or written.
    """
    require_packages()
    names = _step_names(args.steps)
    with opened(args.ledger) as ledger, quiet_logs(not args.quiet):
        settings = load_settings(ledger, args.config, _overrides(args))
        planned = plan(ledger, build_steps(settings))
        if args.estimate:
            print(estimate_run(ledger, planned, settings.repair))
            return 0
        if _is_paid(settings, names) and not args.quiet:
            estimated = estimate_run(ledger, planned, settings.repair)
            print(estimated, file=sys.stderr)
        ledger.save_settings(dump_settings(settings))
        ray = args.ray if {'describe', 'continue'} & {*names} else None
        with (
            use_ray(ray, args.actors, settings.describe.device),
            StopRequest() as stop,
        ):
            try:
                stored = _run(ledger, planned, names, stop, args.quiet)
            finally:
                if _is_paid(settings, names) and not args.quiet:
                    _print_tally(planned)
        failed = sum(
            count(ledger, step).failed
            for step in planned
            if step.step.name in names
        )
        if stop.signum is not None:
            raise StopSignal(
                stop.signum,
                f'stopped; {stored:,} results kept; the same command '
                'continues',
            )
        if not args.quiet:
            _print_table(ledger, planned, sys.stderr)
    return 1 if failed else 0


def status(args: argparse.Namespace) -> int:
    """Run ``minigpt4 curate status``."""
    with opened(args.ledger) as ledger:
        settings = load_settings(ledger, args.config, args.set)
        print(f'{ledger.num_images:,} images: {printable(str(args.ledger))}')
        _print_table(ledger, plan(ledger, build_steps(settings)), sys.stdout)
    return 0


def _overrides(args: argparse.Namespace) -> list[str]:
    if args.max_cost is None:
        return args.set
    return [*args.set, f'repair.max_cost={args.max_cost}']


def _is_paid(settings: CurationSettings, names: Sequence[str]) -> bool:
    return settings.repair.backend == 'openai' and 'repair' in names


def _print_tally(planned: Sequence[PlannedStep]) -> None:
    for step in planned:
        tally = getattr(step.step, 'tally', None)
        if tally is not None:
            print(tally, file=sys.stderr)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Ledger]:
    """Open the ledger of an action that needs images.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It has no images.
    """
    if not path.exists():
        raise FileNotFoundError(
            f'{printable(str(path))} does not exist; add images with '
            '"minigpt4 curate add FOLDER", or give another --ledger.'
        )
    with Ledger(path) as ledger:
        if not ledger.num_images:
            raise ValueError(
                f'{printable(str(path))} has no images; add some with '
                '"minigpt4 curate add FOLDER".'
            )
        yield ledger


def require_packages() -> None:
    """Refuse to begin without the packages of the rules.

    Raises:
        ImportError: One is missing.
    """
    missing = [n for n in _PACKAGES if importlib.util.find_spec(n) is None]
    if missing:
        raise ImportError(
            f'curate needs {", ".join(missing)}; install them with: '
            "pip install 'minigpt4[curate]'"
        )


def _step_names(text: str | None) -> Sequence[str]:
    if text is None:
        return STEP_NAMES
    names = [name.strip() for name in text.split(',') if name.strip()]
    for name in names:
        if name not in STEP_NAMES:
            raise ValueError(
                f'there is no step {printable(name)!r}; expected some of '
                f'{",".join(STEP_NAMES)}.'
            )
    return names


def _run(
    ledger: Ledger,
    planned: Sequence[PlannedStep],
    names: Sequence[str],
    stop: StopRequest,
    quiet: bool,
) -> int:
    """Run the steps with a progress bar each; return the stored results."""
    stored = 0
    bar = progress_bar(with_status=True, visible=not quiet)
    tasks = {
        step.number: bar.add_task(step.step.name, total=None, status='')
        for step in planned
        if step.step.name in names
    }

    counted: dict[int, float] = {}  # step: when

    def report(step: PlannedStep, number: int) -> None:
        nonlocal stored
        stored += number
        bar.start()  # after the model is loaded, which may print
        now = time.monotonic()
        if now - counted.get(step.number, 0.0) < _COUNT_SECONDS:
            bar.update(tasks[step.number], advance=number)
            return
        counted[step.number] = now
        found = count(ledger, step)
        done = found.ok + found.dropped + found.failed
        bar.update(
            tasks[step.number],
            completed=done,
            total=done + found.missing,
            status=', '.join(
                f'{value:,} {name}'
                for name, value in (
                    ('dropped', found.dropped),
                    ('failed', found.failed),
                )
                if value
            ),
        )

    try:
        run_steps(ledger, planned, names, stop, report)
    finally:
        bar.stop()
    return stored


def _print_table(
    ledger: Ledger, planned: Sequence[PlannedStep], stream: TextIO
) -> None:
    """Print the counts of each step, and the last reasons of failures."""
    table = Table(box=None, pad_edge=False)
    table.add_column('step')
    for name in StepCounts._fields:
        table.add_column(name, justify='right')
    reasons: list[str] = []
    for step in planned:
        found = count(ledger, step)
        table.add_row(step.step.name, *(f'{value:,}' for value in found))
        if found.failed:
            by_text = Counter(r.text for r in ledger.failures(step.number))
            for text, number in by_text.most_common(_NAMED_REASONS):
                reasons.append(
                    f'{step.step.name}: {number:,} failed: {printable(text)}'
                )
            others = sorted(by_text.values())[:-_NAMED_REASONS]
            if others:
                reasons.append(
                    f'{step.step.name}: {sum(others):,} more failed for other '
                    'reasons'
                )
        if found.dropped:
            by_rule = Counter(
                str(r.details.get('rule', step.step.name))
                for r in ledger.dropped(step.number)
            )
            for rule, number in by_rule.most_common():
                reasons.append(f'{step.step.name}: {number:,} dropped: {rule}')
    console = Console(file=stream, width=100)
    console.print(table)
    for reason in reasons:
        print(reason, file=stream)


def _print_added(
    added: AddedImages, total: int, args: argparse.Namespace
) -> None:
    for path, reason in added.unreadable[:_NAMED_FAILURES]:
        name = printable(path)
        named = name in reason
        print(
            'unreadable:',
            reason if named else f'{name}: {reason}',
            file=sys.stderr,
        )
    if len(added.unreadable) > _NAMED_FAILURES:
        more = len(added.unreadable) - _NAMED_FAILURES
        print(f'... and {more:,} more', file=sys.stderr)
    if not args.quiet:
        counts = [
            f'{added.new:,} images added',
            *(
                f'{value:,} {name}'
                for name, value in (
                    ('already there', added.known),
                    ('copies of others', added.copies),
                    ('unreadable', len(added.unreadable)),
                )
                if value
            ),
        ]
        ledger = printable(str(args.ledger))
        print(f'{", ".join(counts)}; {total:,} in {ledger}', file=sys.stderr)
