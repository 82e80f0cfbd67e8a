# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Options of the protocols of ``minigpt4 eval`` that ask questions."""

import argparse

from .options import (
    UsageError,
    add_answer_options,
    add_model_options,
    check_model_options,
    path,
    positive_int,
)

QUESTION_PROTOCOLS = {
    'pope': 'is an object in the image, yes or no? (POPE)',
    'aokvqa': 'which of four answers is right? (A-OKVQA, multiple choice)',
    'aokvqa-direct': 'short answers of A-OKVQA (direct answer)',
    'gqa': 'short answers of GQA',
    'okvqa': 'short answers of OK-VQA',
    'vqav2': 'short answers of VQAv2',
}
# of protocols with given answers; the first is the default
METHODS = {
    'pope': ('generate', 'likelihood'),
    'aokvqa': ('likelihood', 'generate'),
}
_MATCH = ('exact', 'contains')
_MATCH_HELP = (
    'an answer is equal to the true one when normalised, or contains it'
)
# scoring options of each protocol: choices, of which the first is the
# default, and help
SCORING: dict[str, dict[str, tuple[tuple[str, ...], str]]] = {
    'pope': {
        'parser': (
            ('official', 'first-word'),
            'how "yes" or "no" is read from an answer: POPE\'s rule, or the '
            'first word',
        )
    },
    'aokvqa': {},
    'aokvqa-direct': {
        'match': (
            (*_MATCH, 'literal'),
            f'{_MATCH_HELP}, or is the same text (literal)',
        )
    },
    'gqa': {'match': (_MATCH, _MATCH_HELP)},
    **{
        name: {
            'match': (_MATCH, _MATCH_HELP),
            'normalise': (
                ('always', 'official'),
                'normalise all answers, or as the official script only those '
                'to questions whose annotators gave different answers',
            ),
        }
        for name in ('okvqa', 'vqav2')
    },
}


def add_question_options(name: str, parser: argparse.ArgumentParser) -> None:
    """Add the options of a protocol."""
    add_model_options(parser)
    parser.add_argument(
        '--questions',
        required=True,
        type=path,
        metavar='FILE',
        help='the annotations of the official data set'
        if name in ('okvqa', 'vqav2')
        else 'the official file of the questions',
    )
    if name in ('okvqa', 'vqav2'):
        parser.add_argument(
            '--question-texts',
            type=path,
            metavar='FILE',
            help='the official file of the questions (default: the one of '
            'the same split next to --questions)',
        )
    else:
        parser.set_defaults(question_texts=None)
    parser.add_argument(
        '--images',
        required=True,
        type=path,
        metavar='DIR',
        help='the folder of the images',
    )
    parser.add_argument(
        '--prompt',
        metavar='TEXT',
        help='what to ask, with {question}'
        + (' and {choices}' if name == 'aokvqa' else '')
        + " (default: the protocol's, see docs/evaluation.md)",
    )
    parser.add_argument(
        '--limit',
        type=positive_int,
        metavar='N',
        help='ask the first N questions (default: all)',
    )
    if name in METHODS:
        parser.add_argument(
            '--method',
            choices=METHODS[name],
            default=METHODS[name][0],
            help='take the likeliest of the answers, or generate one and '
            'find its meaning (default: %(default)s)',
        )
    else:
        parser.set_defaults(method='generate')
    for option, (choices, help_) in SCORING[name].items():
        parser.add_argument(
            f'--{option}',
            choices=choices,
            default=choices[0],
            help=f'{help_} (default: %(default)s)',
        )
    parser.add_argument(
        '--part',
        type=part,
        metavar='I/N',
        help='answer part I of N only, such as 2/4; each of N processes '
        'answers one part, in the same -o',
    )
    add_answer_options(parser)


def part(text: str) -> tuple[int, int]:
    """The type of ``--part``: ``2/4`` is the second of four parts."""
    first, _, second = text.partition('/')
    if not (first.isdecimal() and second.isdecimal()):
        raise argparse.ArgumentTypeError(
            f'{text} is no part such as 2/4, the second of four'
        )
    index, number = int(first), int(second)
    if not 1 <= index <= number:
        raise argparse.ArgumentTypeError(
            f'{text} is no part; expected 1/{number} to {number}/{number}'
        )
    return index, number


def run_question_protocol(args: argparse.Namespace) -> int:
    """Run a protocol that asks questions."""
    from minigpt4.evaluation.question_run import run_questions

    if args.part is not None and args.out is None:
        raise UsageError('--part needs -o, the folder of all parts')
    if args.part is not None and args.overwrite:
        raise UsageError(
            '--overwrite would remove the answers of other parts; remove the '
            'folder before the first part, or give another -o'
        )
    check_model_options(args)
    args.scoring = {
        option: getattr(args, option) for option in SCORING[args.protocol]
    }
    return run_questions(args)
