# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Options of ``minigpt4 eval`` for failures, abilities and their marks."""

import argparse
import sys
from typing import Any

from .eval_judge import (
    add_judge_options,
    has_judge,
    judge_settings,
    require_folder,
)
from .options import (
    UsageError,
    add_answer_options,
    add_model_options,
    check_model_options,
    path,
    positive_int,
)


def add_failures_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``failures``."""
    parser.add_argument(
        '--images',
        required=True,
        type=path,
        metavar='DIR',
        help='the folder of the images, with its subfolders, or a .txt file '
        'with a path in each line',
    )
    parser.add_argument(
        '--count',
        type=positive_int,
        default=100,
        metavar='N',
        help='choose N images at random (default: %(default)s)',
    )
    parser.add_argument(
        '--image-seed',
        type=int,
        default=0,
        metavar='INT',
        help='of the choice of images (default: %(default)s)',
    )
    parser.add_argument(
        '--truth',
        type=path,
        metavar='FILE',
        help='the COCO classes in each image, as for chair; answers that '
        'name none of them are irrelevant',
    )
    add_model_options(parser)
    add_answer_options(parser)


def run_failures_protocol(args: argparse.Namespace) -> int:
    """Run ``failures``."""
    from minigpt4.evaluation.failures_run import run_failures

    require_folder(args)
    check_model_options(args)
    return run_failures(args)


def add_abilities_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``abilities``."""
    parser.add_argument(
        '--images',
        required=True,
        type=path,
        metavar='PATH',
        help='a folder with the folders meme, recipe, advertisement and '
        'poem, or a JSON list of {"image": "a.jpg", "task": "meme"}',
    )
    add_judge_options(parser)
    add_model_options(parser)
    add_answer_options(parser)


def run_abilities_protocol(args: argparse.Namespace) -> int:
    """Run ``abilities``."""
    from minigpt4.evaluation.abilities_run import run_abilities

    require_folder(args)
    check_model_options(args)
    given = has_judge(args)
    if not given and (args.estimate or args.judge_url):
        raise UsageError('give the judge too: --judge-model NAME')
    return run_abilities(args, judge_settings(args) if given else None)


def add_marks_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``marks``."""
    parser.add_argument(
        'folder',
        type=path,
        metavar='DIR',
        help='the -o of failures or abilities; marks.html is written there',
    )
    parser.add_argument(
        '--import',
        dest='file',
        type=path,
        metavar='FILE',
        help='read the marks that the page has exported, of one person or '
        'of several, and score them',
    )
    parser.add_argument(
        '--replace',
        action='store_true',
        help='with --import: replace stored marks of the same person, also '
        'those that the file changes or lacks',
    )
    parser.add_argument(
        '--images',
        type=path,
        metavar='DIR',
        help='the folder of the images, if they have moved',
    )
    parser.add_argument(
        '--open',
        action='store_true',
        help='open the page in the browser',
    )


def run_marks(args: argparse.Namespace) -> int:
    """Run ``marks``."""
    from minigpt4.evaluation.marks import (
        compare_raters,
        import_marks,
        write_page,
    )
    from minigpt4.utils.errors import printable

    if args.file is None:
        if args.replace:
            raise UsageError('--replace goes with --import FILE')
        page, number, errors = write_page(args.folder, args.images)
        for error in errors[:5]:
            print(printable(f'without image: {error}'), file=sys.stderr)
        print(printable(f'{number:,} answers to mark: {page}'))
        if args.open:
            import webbrowser

            webbrowser.open(page.resolve().as_uri())
        return 0
    for found in import_marks(args.folder, args.file, args.replace):
        _print_marks(found)
    for pair in compare_raters(args.folder):
        one, other = pair['raters']
        print(_agreement(f'of {one} and {other}', pair))
    return 0


def _print_marks(found: dict[str, Any]) -> None:
    from minigpt4.evaluation.result_folder import format_score

    what = 'failures' if found['protocol'] == 'failures' else 'requests met'
    before = ''
    if found['lost']:
        before = (
            f' (replaces {found["before"]:,} stored marks, of which '
            f'{found["lost"]:,} differ or are removed)'
        )
    elif found['before']:
        before = f' ({found["before"]:,} of them stored before)'
    print(
        f'{found["marked"]:,} answers marked by {found["rater"]}{before}, '
        f'{found["unmarked"]:,} not; 95 % intervals of Wilson'
    )
    for group, score in found['scores'].items():
        print(
            f'{group:14}{what} {score["number"]} of {score["total"]}: '
            f'{format_score(score, "%")}'
        )
    if found['agreement']['both']:
        program = 'detectors' if what == 'failures' else 'judge'
        print(_agreement(f'with the {program}', found['agreement']))


def _agreement(who: str, both: dict[str, Any]) -> str:
    """How many marks are equal, in one line."""
    kappa = both['kappa']
    shown = 'not defined' if kappa is None else f'{kappa:.3f}'
    return (
        f'agreement {who}: {both["equal"]} of {both["both"]}, '
        f"Cohen's kappa {shown}"
    )
