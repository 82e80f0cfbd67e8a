# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Options of ``minigpt4 eval`` for a judge, for coverage and agreement."""

import argparse
import json
from typing import TYPE_CHECKING, Any

from .options import (
    UsageError,
    add_answer_options,
    add_model_options,
    check_model_options,
    path,
    positive_int,
)

if TYPE_CHECKING:
    from minigpt4.evaluation.judge import JudgeSettings

PARSERS = ('first-word', 'exact')
_LOCAL = 'local:'
_NO_JUDGE = (
    'give a judge: --judge-url URL --judge-model NAME for an endpoint, '
    '--judge local:NAME for a local model, or --judge-answers FILE with '
    '--judge-model NAME for recorded answers'
)


def add_judge_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the judge."""
    group = parser.add_argument_group('judge')
    group.add_argument(
        '--judge',
        metavar='local:NAME',
        help='a local model of "minigpt4 download --list", or the file of a '
        'config; it receives text only',
    )
    group.add_argument(
        '--judge-url',
        metavar='URL',
        help="an endpoint that follows OpenAI's API, such as "
        'http://127.0.0.1:8000/v1; its key is in OPENAI_API_KEY (default: '
        "OpenAI's)",
    )
    group.add_argument(
        '--judge-model',
        metavar='NAME',
        help='the model of the endpoint or of the recorded answers',
    )
    group.add_argument(
        '--judge-answers',
        metavar='FILE.jsonl',
        help='recorded answers, such as judgements.jsonl of another folder',
    )
    group.add_argument(
        '--judge-option',
        action='append',
        default=[],
        metavar='NAME=VALUE',
        help='another setting, such as price_prompt=0.15, api_key_env=null, '
        'concurrency=2, requests_per_minute=60; see docs/evaluation.md',
    )
    group.add_argument(
        '--max-cost',
        type=float,
        metavar='USD',
        help='stop before all judgements of the folder cost more; needs the '
        'prices as --judge-option price_prompt=USD and price_completion=USD, '
        'of a million tokens',
    )
    group.add_argument(
        '--estimate',
        action='store_true',
        help='print how many requests are missing and what they will cost, '
        'and ask nothing',
    )
    add_parser_option(group)


def add_parser_option(parser: Any) -> None:
    """Add ``--parser``."""
    parser.add_argument(
        '--parser',
        choices=PARSERS,
        default=PARSERS[0],
        help='how "yes" or "no" is read from an answer: its first word, or '
        'the whole answer (default: %(default)s)',
    )


def has_judge(args: argparse.Namespace) -> bool:
    """Whether a command line names a judge."""
    return any((args.judge, args.judge_answers, args.judge_model))


def judge_settings(args: argparse.Namespace) -> 'JudgeSettings':
    """The settings of the judge.

    Raises:
        UsageError: There is no judge, or a setting is wrong.
    """
    from pydantic import ValidationError

    from minigpt4.evaluation.judge import JudgeSettings

    fields: dict[str, Any] = {}
    for text in args.judge_option:
        name, equals, value = text.partition('=')
        if not equals or name not in JudgeSettings.model_fields:
            names = ', '.join(sorted(JudgeSettings.model_fields))
            raise UsageError(
                f'--judge-option {text}: expected NAME=VALUE with one of '
                f'{names}'
            )
        try:
            fields[name] = json.loads(value)
        except ValueError:
            fields[name] = value
    fields |= _who(args)
    if args.max_cost is not None:
        fields['max_cost'] = args.max_cost
    try:
        return JudgeSettings(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        place = '.'.join(str(part) for part in first['loc'])
        name = f'--judge-option {place}: ' if place else 'the judge: '
        message = str(first['msg']).removeprefix('Value error, ')
        raise UsageError(f'{name}{message}') from error


def _who(args: argparse.Namespace) -> dict[str, Any]:
    """Backend, model and address."""
    if args.judge is not None:
        if args.judge_answers or args.judge_url or args.judge_model:
            raise UsageError(
                '--judge local:NAME goes without --judge-url, --judge-model '
                'and --judge-answers'
            )
        name = args.judge.removeprefix(_LOCAL)
        if not args.judge.startswith(_LOCAL) or not name:
            raise UsageError(f'--judge {args.judge}: expected local:NAME')
        from minigpt4.loading import check_model
        from minigpt4.utils.errors import one_line

        try:
            check_model(name, None)
        except (OSError, ValueError) as error:
            raise UsageError(f'--judge: {one_line(error)}') from error
        return dict(backend='model', model=name, device=args.device)
    if not args.judge_model:
        raise UsageError(_NO_JUDGE)
    if args.judge_answers is not None:
        if args.judge_url is not None:
            raise UsageError('give --judge-url or --judge-answers, not both')
        if not path(args.judge_answers).is_file():
            raise UsageError(
                f'--judge-answers {args.judge_answers} is no file; give the '
                'JSONL file of recorded answers'
            )
        return dict(
            backend='recorded',
            model=args.judge_model,
            recorded=args.judge_answers,
        )
    return dict(
        backend='openai', model=args.judge_model, base_url=args.judge_url
    )


def add_coverage_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``coverage``."""
    parser.add_argument(
        '--annotations',
        required=True,
        type=path,
        metavar='FILE',
        help='the reference captions: captions_*.json of COCO, or another '
        'layout of training records',
    )
    parser.add_argument(
        '--captions',
        type=path,
        metavar='FILE.jsonl',
        help='judge these captions (lines of image_id and caption), instead '
        'of generating some',
    )
    parser.add_argument(
        '--images',
        type=path,
        metavar='DIR',
        help='generate captions of the images in this folder and its '
        'subfolders, or in this .txt file with a path in each line, that '
        'have a reference caption',
    )
    parser.add_argument(
        '--prompt',
        metavar='TEXT',
        help='what to ask the model (default: Describe this image in detail.)',
    )
    parser.add_argument(
        '--limit',
        type=positive_int,
        metavar='N',
        help='the first N images by name, or the first N captions of the '
        'file (default: all)',
    )
    parser.add_argument(
        '--reference',
        choices=('random', 'first'),
        default='random',
        help='which caption of an image is its reference: one by '
        '--reference-seed, or the first (default: %(default)s)',
    )
    parser.add_argument(
        '--reference-seed',
        dest='reference_seed',
        type=int,
        default=0,
        metavar='INT',
        help='of the random reference (default: %(default)s)',
    )
    add_judge_options(parser)
    add_model_options(parser)
    add_answer_options(parser)


def run_coverage_protocol(args: argparse.Namespace) -> int:
    """Run ``coverage``."""
    from minigpt4.evaluation.coverage_run import run_coverage

    if (args.captions is None) == (args.images is None):
        raise UsageError(
            'give either --captions FILE.jsonl to judge captions, or '
            '--images DIR to generate and judge some'
        )
    require_folder(args)
    if args.captions is None:
        check_model_options(args)
    return run_coverage(args, judge_settings(args))


def require_folder(args: argparse.Namespace) -> None:
    """Check that ``-o`` is given.

    Raises:
        UsageError: It is not.
    """
    if args.out is None:
        raise UsageError(f'{args.protocol} needs -o DIR for its answers')


def add_agreement_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``agreement``."""
    for name in ('first', 'second'):
        parser.add_argument(
            name,
            type=path,
            metavar='DIR',
            help=f'the -o of the {name} judge',
        )
    add_parser_option(parser)


def run_agreement(args: argparse.Namespace) -> int:
    """Run ``agreement``."""
    from minigpt4.evaluation.judge_agreement import (
        compare_judges,
        print_agreement,
    )

    print_agreement(compare_judges(args.first, args.second, args.parser))
    return 0
