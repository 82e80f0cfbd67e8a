# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 eval``: measure a model with one of several protocols."""

import argparse

from .eval_judge import (
    PARSERS,
    add_agreement_options,
    add_coverage_options,
    run_agreement,
    run_coverage_protocol,
)
from .eval_marks import (
    add_abilities_options,
    add_failures_options,
    add_marks_options,
    run_abilities_protocol,
    run_failures_protocol,
    run_marks,
)
from .eval_paper import (
    add_paper_options,
    add_report_options,
    run_paper,
    run_report,
)
from .eval_questions import (
    QUESTION_PROTOCOLS,
    SCORING,
    add_question_options,
    run_question_protocol,
)
from .options import (
    UsageError,
    add_answer_options,
    add_model_options,
    check_model_options,
    given_settings,
    path,
    positive_int,
    used_ray,
)

PROTOCOLS = {
    'match': 'does a caption prefer its own image to another one?',
    'chair': 'which objects do captions name, and which of them are invented?',
    'captions': 'how similar are captions to those that people wrote?',
    **QUESTION_PROTOCOLS,
    'coverage': 'do captions cover a reference caption, by a judge?',
    'failures': 'how often are captions and poems no good?',
    'abilities': 'are requests for memes, recipes, advertisements, poems met?',
    'agreement': 'how far do the judges of two folders agree?',
    'marks': 'a page for marks of people, for failures and abilities',
    'paper': 'measure all that the paper reports, and write one page',
    'report': 'write one page about the results of several folders',
}
# what reads result folders of other protocols and makes none
_TOOLS = ('agreement', 'marks', 'paper', 'report')
# whose intervals are not by resampling
_OTHER_INTERVALS = ('coverage', 'failures', 'abilities')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the protocols and their options."""
    parser.description = (
        'Measure a model. Each protocol has its own options: '
        'minigpt4 eval PROTOCOL --help.'
    )
    parser.add_argument(
        '--score',
        type=path,
        metavar='DIR',
        help='score the stored answers of a folder again, without a model',
    )
    parser.add_argument(
        '--option',
        action='append',
        default=[],
        metavar='NAME=VALUE',
        help='with --score: a scoring option of the protocol, such as '
        'parser=first-word',
    )
    _add_bootstrap(parser)
    protocols = parser.add_subparsers(dest='protocol', metavar='PROTOCOL')
    for name, help_ in PROTOCOLS.items():
        protocol = protocols.add_parser(name, help=help_, description=help_)
        if name in QUESTION_PROTOCOLS:
            add_question_options(name, protocol)
        else:
            _ADD_OPTIONS[name](protocol)
        if name not in _TOOLS:
            _add_common_options(protocol)
            if name not in _OTHER_INTERVALS:
                _add_bootstrap(protocol)
            _add_quiet(protocol)
        _add_debug(protocol)


def run(args: argparse.Namespace) -> int:
    """Run the verb."""
    if (args.protocol is None) == (args.score is None):
        raise UsageError(
            'give either a PROTOCOL to measure a model, or --score DIR to '
            'score the stored answers of a folder'
        )
    if args.score is not None:
        return _run_score(args)
    if args.option:
        raise UsageError('--option goes with --score DIR')
    if args.protocol != 'report' and getattr(args, 'out', None) is not None:
        from minigpt4.utils.output_paths import check_output_folder

        check_output_folder(args.out)
    with used_ray(args):
        if args.protocol in QUESTION_PROTOCOLS:
            return run_question_protocol(args)
        return _RUN[args.protocol](args)


def _add_common_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '-o',
        '--out',
        type=path,
        metavar='DIR',
        help='the folder for raw results and scores; the same command again '
        'continues there',
    )
    parser.add_argument(
        '--overwrite',
        action='store_true',
        help='replace what is in -o, instead of continuing',
    )


def _add_quiet(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '-q', '--quiet', action='store_true', help='without progress bar'
    )


def _add_debug(parser: argparse.ArgumentParser) -> None:
    # of this parser too, so that it can follow the protocol
    parser.add_argument(
        '--debug',
        action='store_true',
        default=argparse.SUPPRESS,
        help='show the traceback of an error',
    )


def _add_bootstrap(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--bootstrap',
        type=positive_int,
        default=1000,
        metavar='N',
        help='resamples of the 95 %% intervals (default: %(default)s)',
    )


def _add_match_options(parser: argparse.ArgumentParser) -> None:
    add_model_options(parser)
    parser.add_argument(
        '--annotations',
        required=True,
        type=path,
        metavar='FILE',
        help='captions of images: captions_*.json of COCO, or another layout '
        'of training records',
    )
    parser.add_argument(
        '--images',
        required=True,
        type=path,
        metavar='DIR',
        help='the folder of the images',
    )
    parser.add_argument(
        '--limit',
        type=positive_int,
        metavar='N',
        help='use the first N images by name (default: all)',
    )
    parser.add_argument(
        '--batch-size',
        type=positive_int,
        default=64,
        metavar='N',
        help='captions of one forward pass (default: %(default)s)',
    )
    parser.add_argument(
        '--seed',
        type=int,
        default=0,
        metavar='INT',
        help='of the other image of each image (default: %(default)s)',
    )
    parser.add_argument(
        '--template',
        metavar='NAME',
        help='the prompt template, such as bare for stage 1 (default: the '
        "model's own)",
    )
    parser.add_argument(
        '--prompt',
        metavar='TEXT',
        help="the question of a caption without one (default: the model's; "
        'none with the template bare)',
    )
    parser.add_argument(
        '--clean',
        action='store_true',
        help='clean the captions as stage 1 does: lower case, no punctuation '
        '(default: as they are)',
    )


def _add_chair_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--truth',
        type=path,
        metavar='FILE',
        help='the COCO classes in each image: {"139": ["chair", "tv"]}',
    )
    parser.add_argument(
        '--instances',
        type=path,
        nargs='+',
        metavar='FILE',
        help='instead of --truth: instances_*.json of COCO',
    )
    parser.add_argument(
        '--captions-truth',
        type=path,
        nargs='+',
        metavar='FILE',
        help='with --instances: captions_*.json of COCO; the objects that '
        'they name are in the images too',
    )
    parser.add_argument(
        '--variants',
        action='store_true',
        help='print how far other ways of scoring move the scores: words, '
        'length, truth',
    )
    parser.add_argument(
        '--variant-truth',
        type=path,
        action='append',
        default=[],
        metavar='FILE',
        help='with --variants: another --truth; may be given several times',
    )
    _add_caption_source(parser)


def _add_captions_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--annotations',
        required=True,
        type=path,
        metavar='FILE',
        help='the reference captions: captions_*.json of COCO, or another '
        'layout of training records',
    )
    _add_caption_source(parser)


def _add_caption_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--captions',
        type=path,
        metavar='FILE',
        help='score these captions (JSON lines of image_id and caption, or a '
        'results file of COCO), instead of generating some',
    )
    parser.add_argument(
        '--images',
        type=path,
        metavar='DIR',
        help='generate captions of the images in this folder and its '
        'subfolders that the file above describes',
    )
    parser.add_argument(
        '--prompt',
        metavar='TEXT',
        help="what to ask (default: the model's own prompt)",
    )
    parser.add_argument(
        '--limit',
        type=positive_int,
        metavar='N',
        help='caption the first N images by name (default: all)',
    )
    add_model_options(parser)
    add_answer_options(parser)


def _measure(words: list[str]) -> int:
    """Run ``minigpt4 eval`` with given words."""
    parser = argparse.ArgumentParser(prog='minigpt4 eval')
    add_arguments(parser)
    return run(parser.parse_args(words))


# scoring options of protocols without questions: as SCORING
_RESCORED: dict[str, dict[str, tuple[tuple[str, ...], str]]] = {
    name: {'parser': (PARSERS, '')} for name in ('coverage', 'abilities')
}
_ADD_OPTIONS = {
    'match': _add_match_options,
    'chair': _add_chair_options,
    'captions': _add_captions_options,
    'coverage': add_coverage_options,
    'failures': add_failures_options,
    'abilities': add_abilities_options,
    'agreement': add_agreement_options,
    'marks': add_marks_options,
    'paper': add_paper_options,
    'report': add_report_options,
}


def _run_match(args: argparse.Namespace) -> int:
    from minigpt4.evaluation.match_run import run_match
    from minigpt4.loading import check_model
    from minigpt4.prompts import get_template
    from minigpt4.utils.errors import one_line

    try:
        check_model(args.model, args.pretrained)
        if args.template is not None:
            get_template(args.template)
    except (OSError, ValueError) as error:
        raise UsageError(one_line(error)) from error
    return run_match(args)


def _run_chair(args: argparse.Namespace) -> int:
    _check_caption_source(args)
    _check_truth(args)
    from minigpt4.evaluation.chair_run import run_chair

    return run_chair(args)


def _run_captions(args: argparse.Namespace) -> int:
    _check_caption_source(args)
    from minigpt4.evaluation.captions_run import run_captions

    return run_captions(args)


def _run_paper(args: argparse.Namespace) -> int:
    return run_paper(args, _measure)


def _check_truth(args: argparse.Namespace) -> None:
    if (args.truth is None) == (args.instances is None):
        raise UsageError(
            'give either --truth FILE or --instances FILE, the classes in '
            'each image'
        )
    if args.captions_truth is not None and args.instances is None:
        raise UsageError('--captions-truth goes with --instances FILE')
    if args.variant_truth and not args.variants:
        raise UsageError('--variant-truth goes with --variants')


def _check_caption_source(args: argparse.Namespace) -> None:
    if (args.captions is None) == (args.images is None):
        raise UsageError(
            'give either --captions FILE to score captions, or --images DIR '
            'to generate and score some'
        )
    if args.captions is None:
        check_model_options(args)
        return
    unused = [*given_settings(args)]
    unused += [
        n for n in ('limit', 'prompt', 'ray') if getattr(args, n) is not None
    ]
    if unused:
        raise UsageError(
            f'--{unused[0].replace("_", "-")} goes with --images; with '
            '--captions nothing is generated'
        )


def _run_score(args: argparse.Namespace) -> int:
    from minigpt4.evaluation.score_folder import score_folder, stored_protocol

    known = {**SCORING, **_RESCORED}.get(stored_protocol(args.score), {})
    scoring = {}
    for text in args.option:
        name, _, value = text.partition('=')
        if name not in known:
            names = ', '.join(known) or 'none'
            raise UsageError(
                f'--option {text}: the protocol has the scoring options '
                f'{names}'
            )
        if value not in known[name][0]:
            raise UsageError(
                f'--option {text}: expected one of {", ".join(known[name][0])}'
            )
        scoring[name] = value
    return score_folder(args.score, scoring, args.bootstrap)


_RUN = {
    'match': _run_match,
    'chair': _run_chair,
    'captions': _run_captions,
    'coverage': run_coverage_protocol,
    'failures': run_failures_protocol,
    'abilities': run_abilities_protocol,
    'agreement': run_agreement,
    'marks': run_marks,
    'paper': _run_paper,
    'report': run_report,
}
