# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 reproduce``: the paper in miniature, one command."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from .options import UsageError, path, positive_int

DESCRIPTION = """\
Train stage 1, stage 2 and the variants of the paper with several seeds, test
each, and write a report with the claims of the paper next to the scores. The
same command again continues; a changed config trains what depends on it.
"""
# of one process; a complete test of nano has had about 730
_OPEN_FILES = 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.description = DESCRIPTION
    models = parser.add_mutually_exclusive_group()
    models.add_argument(
        '--nano',
        action='store_true',
        help='the nano model, on rendered scenes (the default)',
    )
    models.add_argument(
        '--small',
        type=path,
        metavar='PHOTOS',
        help='the small model, on a folder of photographs with captions, as '
        'for tools/quickstart.sh',
    )
    parser.add_argument(
        '-o',
        '--out',
        required=True,
        type=path,
        metavar='DIR',
        help='the folder for data, checkpoints, answers, scores and report',
    )
    parser.add_argument(
        '--seeds',
        type=positive_int,
        default=3,
        metavar='N',
        help='the seeds 1 to N (default: %(default)s)',
    )
    parser.add_argument(
        '--only',
        action='append',
        metavar='NAME',
        help='this training and those that it starts from; may be given '
        'several times',
    )
    parser.add_argument(
        '--jobs',
        type=positive_int,
        metavar='N',
        help='trainings at the same time, each with one thread (default: the '
        'number of cores)',
    )
    parser.add_argument(
        '--share',
        type=_share,
        default=1.0,
        metavar='F',
        help='share of data and iterations, to try the command: 0.01 needs '
        'minutes, and its scores mean nothing (default: %(default)s)',
    )


def run(args: argparse.Namespace) -> int:
    """Run the steps and write the report."""
    from minigpt4.reproduction import report
    from minigpt4.reproduction.commands import copy_configs
    from minigpt4.reproduction.machine import number_of_cores
    from minigpt4.reproduction.nano import NANO
    from minigpt4.reproduction.plan import Plan
    from minigpt4.reproduction.setups import with_enough, with_needed
    from minigpt4.reproduction.small import small
    from minigpt4.reproduction.step_processes import use_short_temporary_folder
    from minigpt4.reproduction.steps import (
        Outcome,
        printed_lines,
        run_steps,
    )
    from minigpt4.utils.locks import FolderLock
    from minigpt4.utils.signals import raise_on_signals

    for option, value in (('-o', args.out), ('--small', args.small)):
        _check_utf8(option, value)
    report.check_report(args.out)
    if args.small is None:
        setup = NANO
    else:
        _check_photos(args.small, args.out)
        setup = small(args.small)
    if args.only:
        try:
            trainings = with_needed(setup.trainings, args.only)
        except ValueError as error:
            raise UsageError(str(error)) from error
        setup = setup._replace(trainings=trainings)
    seeds = range(1, args.seeds + 1)
    plan = Plan(setup, seeds, args.share)
    jobs = args.jobs or number_of_cores()
    use_short_temporary_folder()
    _allow_open_files()
    note = f'the same command continues; results: {args.out}'
    with FolderLock(args.out, 'reproduction'), raise_on_signals(note):
        folder = args.out.resolve() / f'work-{plan.digest}'
        folder.mkdir(exist_ok=True)
        copy_configs(folder)
        environment = _environment(args.debug)
        omitted: list[str] = []
        outcome = Outcome(set(), {}, set())
        if setup.descriptions is not None:
            # the number of descriptions decides which trainings are omitted
            _print(f'{len(plan.data)} steps make the data, in {folder}')
            outcome = run_steps(plan.data, folder, jobs, environment, _print)
        if outcome.failed:
            others = plan.steps[len(plan.data) :]
            outcome.skipped.update(step.name for step in others)
        else:
            setup, omitted = with_enough(setup, folder)
            for line in omitted:
                _print(line)
            plan = Plan(setup, seeds, args.share) if omitted else plan
            _print(
                f'{len(plan.steps)} steps, {jobs} at the same time, '
                f'in {folder}'
            )
            outcome = run_steps(plan.steps, folder, jobs, environment, _print)
        data = printed_lines(folder, 'data')
        for line in data:  # how many are held out, which are skipped
            _print(f'data: {line}')
        problems = [f'{k} failed: {v}' for k, v in outcome.failed.items()]
        problems += [
            f'{name}: a step that it needs failed'
            for name in sorted(outcome.skipped)
        ]
        for problem in problems:
            _print(problem)
        if problems:
            _print(
                'the same command runs them again, and makes again what is '
                'missing of data, features, frozen parts and checkpoints; if '
                'one of these files is damaged, delete it'
            )
        facts = _facts(args)
        facts['data'] = '; '.join([*data, *omitted])
        found = report.write_report(args.out, folder, plan, facts, problems)
        for problem in found:
            _print(problem)
    _print(f'report: {args.out / report.PAGE}')
    return 1 if problems or found else 0


def _check_utf8(option: str, value: Path | None) -> None:
    """Refuse a path that logs and the report cannot have."""
    from minigpt4.utils.errors import printable

    try:
        str(value).encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f'{option} {printable(str(value))} is not UTF-8; give a folder '
            'with another name'
        ) from error


def _check_photos(photos: Path, out: Path) -> None:
    """Refuse what is no folder, and results among the photographs."""
    from minigpt4.utils.errors import printable

    if not photos.is_dir():
        raise UsageError(
            f'--small {printable(str(photos))}: there is no such folder; '
            'expected a folder of photographs with captions (docs/small.md)'
        )
    if out.resolve().is_relative_to(photos.resolve()):
        raise UsageError(
            f'-o {printable(str(out))} is in the folder of the photographs; '
            'give a folder outside of it, since each new file there is new '
            'data'
        )


def _allow_open_files() -> None:
    """Raise the limit of open files, or refuse to run with too few.

    The steps inherit it; see ``require_open_files`` of the engine.
    """
    from minigpt4.utils.open_files import raise_open_files

    limit = raise_open_files()
    if limit < _OPEN_FILES:
        raise ValueError(
            f'a process may have {limit} open files, expected at least '
            f'{_OPEN_FILES}; raise the limit with "ulimit -n {_OPEN_FILES}".'
        )


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(
            f'{text!r} is no share; expected a number above 0 and at most 1'
        )
    return value


def _print(line: str) -> None:
    """Print a line; without a reader, as after ``| head``, the rest is not."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        os.close(nothing)
        print(
            'nothing reads the output any more; the run goes on without it',
            file=sys.stderr,
        )


def _environment(debug: bool) -> dict[str, str]:
    """The environment of the steps: one thread each."""
    from minigpt4.utils.errors import DEBUG_VARIABLE

    threads = {'OMP_NUM_THREADS': '1', 'MKL_NUM_THREADS': '1'}
    return {
        **os.environ,
        **threads,
        **({DEBUG_VARIABLE: '1'} if debug else {}),
    }


def _facts(args: argparse.Namespace) -> dict[str, Any]:
    import datetime
    import shlex

    photos = shlex.quote(str(args.small))
    model = '--nano' if args.small is None else f'--small {photos}'
    command = f'minigpt4 reproduce {model} -o DIR --seeds {args.seeds}'
    command += ''.join(f' --only {name}' for name in args.only or ())
    part = {}
    if args.share < 1:
        command += f' --share {args.share}'
        part = {'share': 'a part of data and iterations: scores mean nothing'}
    return {
        'command': command,
        **part,
        'report written': datetime.date.today().isoformat(),
    }
