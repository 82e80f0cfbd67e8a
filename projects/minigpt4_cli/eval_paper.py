# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 eval paper`` and ``report``: every table of the paper, one page.

A recipe is a command of ``minigpt4 eval`` with the files that it expects
below the folder of the data.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from .eval_judge import add_judge_options, has_judge
from .options import (
    UsageError,
    add_model_options,
    add_ray_options,
    path,
    positive_int,
)

LONG = 'Please describe this image as detailed as possible.'
SHORT = (
    'Please describe the image shortly and precisely, in less than 20 words.'
)


class Recipe(NamedTuple):
    """One measurement of the paper.

    Attributes:
        name: Its name, and that of its folder of results.
        protocol: The protocol.
        table: Where the paper reports it.
        files: Options with a file or folder below the folder of the data.
        options: Other options.
        limit: Its option for a number of questions or images, if any.
        judge: ``'needed'``, ``'possible'``, or None without a judge.
    """

    name: str
    protocol: str
    table: str
    files: dict[str, str]
    options: tuple[str, ...] = ()
    limit: str | None = '--limit'
    judge: str | None = None


_CHAIR_FILES = {
    '--truth': 'coco/chair_objects.json',
    '--images': 'coco/val2014',
}
# of protocols without questions: their files, and where to get them
_SOURCES = {
    'chair': 'the folder val2014 of COCO (cocodataset.org), and as '
    'chair_objects.json the classes in each image, the --truth of "minigpt4 '
    'eval chair", made of the annotations of COCO 2014',
    'abilities': 'your own images, in the folders meme, recipe, advertisement '
    "and poem (the paper's were not published)",
    'coverage': 'the folder val2014 and the annotations (captions) of COCO '
    '2014 (cocodataset.org)',
    'failures': 'the folder test2014 of COCO (cocodataset.org)',
}
RECIPES = (
    Recipe(
        'aokvqa',
        'aokvqa',
        'appendix A.2, table 5',
        {
            '--questions': 'aokvqa/aokvqa_v1p0_val.json',
            '--images': 'coco/val2017',
        },
    ),
    Recipe(
        'gqa',
        'gqa',
        'appendix A.2, table 5',
        {
            '--questions': 'gqa/testdev_balanced_questions.json',
            '--images': 'gqa/images',
        },
    ),
    Recipe(
        'chair-long', 'chair', 'section 4.5', _CHAIR_FILES, ('--prompt', LONG)
    ),
    Recipe(
        'chair-short',
        'chair',
        'section 4.5',
        _CHAIR_FILES,
        ('--prompt', SHORT),
    ),
    Recipe(
        'abilities',
        'abilities',
        'section 4.2, table 1',
        {'--images': 'abilities'},
        limit=None,
        judge='possible',
    ),
    Recipe(
        'coverage',
        'coverage',
        'section 4.2, appendix A.3',
        {
            '--annotations': 'coco/annotations/captions_val2014.json',
            '--images': 'coco/val2014',
        },
        judge='needed',
    ),
    Recipe(
        'failures',
        'failures',
        'section 4.3, table 3',
        {'--images': 'coco/test2014'},
        limit='--count',
    ),
    *(
        Recipe(
            f'pope-{name}',
            'pope',
            'not in the paper',
            {
                '--questions': f'pope/coco_pope_{name}.json',
                '--images': 'coco/val2014',
            },
        )
        for name in ('random', 'popular', 'adversarial')
    ),
)


def add_paper_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``minigpt4 eval paper``."""
    add_model_options(parser)
    parser.add_argument(
        '--data',
        required=True,
        type=path,
        metavar='DIR',
        help='the folder of the data sets, as docs/evaluation.md lists them; '
        'a measurement whose files are missing is skipped and named',
    )
    parser.add_argument(
        '-o',
        '--out',
        required=True,
        type=path,
        metavar='DIR',
        help='the folder for the results of each measurement and report.html; '
        'the same command again continues there',
    )
    parser.add_argument(
        '--only',
        action='append',
        choices=[recipe.name for recipe in RECIPES],
        metavar='NAME',
        help='measure this only; may be given several times: '
        + ', '.join(recipe.name for recipe in RECIPES),
    )
    parser.add_argument(
        '--limit',
        type=positive_int,
        metavar='N',
        help='the first N questions or images of each (default: all)',
    )
    parser.add_argument(
        '--slots',
        type=positive_int,
        default=8,
        help='answers generated at the same time (default: %(default)s)',
    )
    parser.add_argument(
        '-q', '--quiet', action='store_true', help='without progress bar'
    )
    add_ray_options(parser)
    add_judge_options(parser)


def add_report_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``minigpt4 eval report``."""
    parser.add_argument(
        'folders',
        nargs='+',
        type=path,
        metavar='DIR',
        help='a folder of results, the -o of "minigpt4 eval PROTOCOL"',
    )
    parser.add_argument(
        '-o',
        '--out',
        required=True,
        type=path,
        metavar='FILE.html',
        help='the page to write',
    )


def run_paper(
    args: argparse.Namespace, measure: Callable[[list[str]], int]
) -> int:
    """Run all recipes whose files exist, and write the report.

    Args:
        args: The options.
        measure: Runs ``minigpt4 eval`` with given words.

    Returns:
        0; 1 if a measurement failed or skipped an image.
    """
    from minigpt4.evaluation.report import (
        check_report,
        read_result,
        write_report,
    )
    from minigpt4.loading import kept_model
    from minigpt4.utils.errors import one_line

    if not args.data.is_dir():
        found = 'is not a folder' if args.data.exists() else 'does not exist'
        raise UsageError(
            f'{args.data} {found}; expected the folder of the data sets'
        )
    report = args.out / 'report.html'
    check_report(report)
    chosen = [r for r in RECIPES if not args.only or r.name in args.only]
    omitted, results = [], []
    status = 0
    with kept_model():
        for recipe in chosen:
            if obstacle := _obstacle(recipe, args):
                omitted.append(f'{recipe.name} ({recipe.table}): {obstacle}')
                print(f'skipped: {omitted[-1]}', file=sys.stderr)
                continue
            folder = args.out / recipe.name
            print(f'== {recipe.name} ({recipe.table})', flush=True)
            try:
                status = measure(_words(recipe, args, folder)) or status
                results.append(read_result(folder, recipe.name))
            except (OSError, ValueError) as error:  # of this measurement
                status = 1
                omitted.append(
                    f'{recipe.name} ({recipe.table}) failed: {one_line(error)}'
                )
                print(omitted[-1], file=sys.stderr)
    if not results:
        raise UsageError(
            f'no measurement was made of what {args.data} contains; '
            'docs/evaluation.md lists the files'
        )
    title = f'{args.model} in the protocols of the paper'
    write_report(report, results, title, omitted)
    print(f'report: {report}')
    return status


def run_report(args: argparse.Namespace) -> int:
    """Write a report of given folders.

    Returns:
        0; 1 if a folder was skipped.

    Raises:
        ValueError: No folder has results, or the page cannot be written.
    """
    from minigpt4.datasets.skip_summary import counted
    from minigpt4.evaluation.report import (
        check_report,
        read_result,
        write_report,
    )
    from minigpt4.utils.errors import one_line, printable

    check_report(args.out)
    results, omitted = [], []
    for folder in args.folders:
        try:
            results.append(read_result(folder))
        except (OSError, ValueError) as error:  # of this folder
            omitted.append(one_line(error))
    if not results and len(omitted) == 1:
        raise ValueError(omitted[0])
    for reason in omitted:
        print(f'skipped: {reason}', file=sys.stderr)
    if not results:
        raise ValueError(
            f'none of the {len(omitted):,} folders has results that can be '
            'reported; expected the -o of "minigpt4 eval PROTOCOL".'
        )
    write_report(args.out, results, 'Evaluation', omitted)
    folders = counted(len(results), 'folder')
    if omitted:
        folders += f', {len(omitted):,} skipped'
    print(printable(f'report: {args.out} ({folders})'))
    return 1 if omitted else 0


def _obstacle(recipe: Recipe, args: argparse.Namespace) -> str | None:
    """Why a recipe cannot run; None if it can."""
    files = [args.data / name for name in recipe.files.values()]
    missing = [str(file) for file in files if not file.exists()]
    if missing:
        return f'missing: {", ".join(missing)}; get {_source(recipe)}'
    if recipe.judge == 'needed' and not has_judge(args):
        return 'it needs a judge, such as --judge-url URL --judge-model NAME'
    return None


def _source(recipe: Recipe) -> str:
    """The files of a recipe, and where to get them."""
    from minigpt4.evaluation.question_protocols import QUESTION_PROTOCOLS

    if recipe.protocol in QUESTION_PROTOCOLS:
        return QUESTION_PROTOCOLS[recipe.protocol].data.removesuffix('.')
    return _SOURCES[recipe.protocol]


def _words(
    recipe: Recipe, args: argparse.Namespace, folder: Path
) -> list[str]:
    """The command line of a recipe, after ``minigpt4 eval``."""
    words = [recipe.protocol, *recipe.options]
    for file_option, name in recipe.files.items():
        words += [file_option, str(args.data / name)]
    words += ['--model', args.model, '--slots', str(args.slots)]
    for option, value in (
        ('--pretrained', args.pretrained),
        ('--device', args.device),
        (recipe.limit, args.limit),
    ):
        if option is not None and value is not None:
            words += [option, str(value)]
    if recipe.judge is not None and has_judge(args):
        words += _judge_words(args)
    if args.quiet:
        words.append('--quiet')
    return [*words, '-o', str(folder)]


def _judge_words(args: argparse.Namespace) -> list[str]:
    """The options of the judge."""
    words = ['--parser', args.parser]
    for option, value in (
        ('--judge', args.judge),
        ('--judge-url', args.judge_url),
        ('--judge-model', args.judge_model),
        ('--judge-answers', args.judge_answers),
        ('--max-cost', args.max_cost),
    ):
        if value is not None:
            words += [option, str(value)]
    for setting in args.judge_option:
        words += ['--judge-option', setting]
    return words + ['--estimate'] * args.estimate
