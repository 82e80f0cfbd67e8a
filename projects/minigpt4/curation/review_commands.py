# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The actions of ``minigpt4 curate`` that exchange reviews with files."""

import argparse
import contextlib
import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..utils.errors import printable
from ..utils.output_paths import check_output_file
from .added_files import PROBLEMS, ImageProblem
from .commands import opened
from .label_studio import config_file, read_annotations, write_tasks
from .ledger import Ledger
from .pipeline import PlannedStep, count, plan
from .review_export import write_review
from .review_import import (
    ImportReport,
    Record,
    import_decisions,
    read_decisions,
)
from .review_queue import ReviewQueue
from .settings import build_steps, load_settings

_NAMED = 20  # errors, conflicts or images that are printed


@contextlib.contextmanager
def opened_queue(args: argparse.Namespace) -> Iterator[ReviewQueue]:
    """Open the queue of a ledger.

    Args:
        args: Has ``ledger``, ``config`` and ``set``.

    Raises:
        ValueError: A setting is wrong, or there is no text to review.
        OSError: A file cannot be read.
    """
    with opened(args.ledger) as ledger:
        settings = load_settings(ledger, args.config, args.set)
        planned = plan(ledger, build_steps(settings))
        _check_texts(ledger, planned, args)
        steps = {step.step.name: step.number for step in planned}
        yield ReviewQueue(ledger, steps, settings.review)


def _check_texts(
    ledger: Ledger, planned: Sequence[PlannedStep], args: argparse.Namespace
) -> None:
    """Name the command that gives texts for these settings.

    Raises:
        ValueError: There is no text for them.
    """
    last = planned[-1]
    if ledger.counts(last.number)['ok']:
        return
    name = printable(str(args.ledger))
    words = ['--ledger', str(args.ledger)]
    if args.config is not None:
        words += ['--config', str(args.config)]
    for setting in args.set:
        words += ['--set', setting]
    options = printable(shlex.join(words))
    if not any(count(ledger, step).missing for step in planned):
        raise ValueError(
            f'{name} has no text to review: with these settings each image '
            'was dropped or failed; the reasons are printed by: minigpt4 '
            f'curate status {options}'
        )
    if any(
        ledger.counts(number)['ok']
        for number, _, step, _ in ledger.steps()
        if step == last.step.name
    ):
        raise ValueError(
            f'{name} has texts of other settings only: the steps were not '
            'run with these settings; run them first: minigpt4 curate run '
            f'{options}'
        )
    raise ValueError(
        f'{name} has no texts to review yet; run the automatic steps first: '
        f'minigpt4 curate run {options}'
    )


def export_review(args: argparse.Namespace) -> int:
    """Run ``minigpt4 curate export-review``; 1 if an image is omitted."""
    _refuse_existing(args.overwrite, args.file)
    with opened_queue(args) as queue:
        ids = _chosen(queue, args)
        problems = write_review(
            queue, ids, args.file, args.reviewer, args.image_side
        )
    print(
        f'{len(ids):,} texts written to {printable(str(args.file))}',
        file=sys.stderr,
    )
    _print_problems(problems)
    return 1 if problems else 0


def import_review(args: argparse.Namespace) -> int:
    """Run ``minigpt4 curate import-review``; 1 if a record is wrong."""
    return _import(args, read_decisions(args.file))


def label_studio(args: argparse.Namespace) -> int:
    """Run ``minigpt4 curate label-studio``; 1 if something is wrong."""
    if args.exchange == 'import':
        return _import(args, read_annotations(args.file))
    config = config_file(args.file)
    _refuse_existing(args.overwrite, args.file, config)
    with opened_queue(args) as queue:
        ids = _chosen(queue, args)
        problems = write_tasks(queue, ids, args.file, args.image_prefix)
    print(
        f'{len(ids):,} tasks written to {printable(str(args.file))}; the '
        f'labelling configuration of the project is in '
        f'{printable(str(config))}',
        file=sys.stderr,
    )
    _print_problems(problems)
    return 1 if problems else 0


def _refuse_existing(overwrite: bool, *paths: Path) -> None:
    """Check that files can be written, and have no decision of a person.

    Raises:
        FileExistsError: One of them exists, and ``overwrite`` is not given.
        ValueError: One is a folder, a device, or a symbolic link to nothing.
        OSError: A folder takes no new files.
    """
    for path in paths:
        check_output_file(path)
        if os.path.lexists(path) and not overwrite:
            raise FileExistsError(
                f'{printable(str(path))} exists; it may have decisions: '
                'import it first, give another name, or --overwrite.'
            )


def _print_problems(problems: list[ImageProblem]) -> None:
    """Count and name the images that were omitted."""
    kinds = [problem.kind for problem in problems]
    for kind in dict.fromkeys(kinds):
        print(
            f'{kinds.count(kind):,} without their image: {PROBLEMS[kind]}',
            file=sys.stderr,
        )
    for problem in problems[:_NAMED]:
        print(f'  {printable(str(problem))}', file=sys.stderr)
    if len(problems) > _NAMED:
        print(f'  ... and {len(problems) - _NAMED:,} more', file=sys.stderr)


def _chosen(queue: ReviewQueue, args: argparse.Namespace) -> list[int]:
    """The texts to write.

    Raises:
        ValueError: There is none.
    """
    queue.score_objects()
    shown = 'todo' if args.reviewer else 'open'
    ids = queue.listed('all' if args.all else shown, args.reviewer)
    if not ids:
        raise ValueError(
            'all texts are decided; give --all to write them again.'
        )
    return ids[: args.limit]


def _import(args: argparse.Namespace, records: list[Record]) -> int:
    with opened_queue(args) as queue:
        report = import_decisions(queue, records, args.reviewer, args.replace)
    _print_report(report)
    return 1 if report.errors or report.conflicts else 0


def _print_report(report: ImportReport) -> None:
    for kind, sentences in (
        ('wrong', report.errors),
        ('conflict', report.conflicts),
        ('note', report.notes),
    ):
        for sentence in sentences[:_NAMED]:
            print(f'{kind}: {printable(sentence)}', file=sys.stderr)
        if len(sentences) > _NAMED:
            more = len(sentences) - _NAMED
            print(f'{kind}: ... and {more:,} more', file=sys.stderr)
    counts = (
        ('already there', report.known),
        ('without a decision', report.undecided),
        ('notes not stored', len(report.notes)),
        ("against another reviewer's decision", report.disputed),
        ('wrong', len(report.errors)),
        ('in conflict', len(report.conflicts)),
    )
    parts = [f'{number:,} {name}' for name, number in counts if number]
    print(
        ', '.join([f'{report.stored:,} decisions stored', *parts]),
        file=sys.stderr,
    )
