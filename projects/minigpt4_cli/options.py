# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Options that several verbs have: the model, sampling parameters, errors."""

import argparse
import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

DEFAULT_MODEL = 'minigpt-4_nano_caption'
# sampling parameter: (type, help); None is a pair of flags --x and --no-x
SETTINGS: dict[str, tuple[Callable[[str], Any] | None, str]] = {
    'max_new_tokens': (int, 'the longest answer, in tokens'),
    'min_new_tokens': (
        int,
        'the shortest answer, in tokens; nothing ends an answer before',
    ),
    'do_sample': (None, 'sample each token instead of taking the best'),
    'temperature': (float, 'of sampling'),
    'top_k': (int, 'sample from the K best tokens'),
    'top_p': (float, 'sample from the best tokens of this probability'),
    'repetition_penalty': (float, 'above 1 against repetition'),
    'seed': (int, 'of sampling; the same answers each time'),
    'num_beams': (int, 'number of beams of beam search'),
    'length_penalty': (float, 'of beam search; above 0 for longer answers'),
}


_MAX_TIMEOUT_SECONDS = 86_400


class UsageError(ValueError):
    """The command line is wrong; printed with the usage, exit status 2."""


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--model``, ``--pretrained`` and ``--device``."""
    parser.add_argument(
        '--model',
        default=DEFAULT_MODEL,
        metavar='NAME',
        help='a model of "minigpt4 download --list", or the file of a config '
        f'(default: {DEFAULT_MODEL})',
    )
    parser.add_argument(
        '--pretrained',
        metavar='FILE',
        help='a checkpoint of the projection, instead of the published one',
    )
    parser.add_argument('--device', help='cuda, cuda:1, cpu (default: a GPU)')


def add_server_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--server``, ``--api-key-env`` and ``--server-timeout``."""
    parser.add_argument(
        '--server',
        metavar='URL',
        help="ask a server that follows OpenAI's API, such as minigpt4 serve "
        'or vLLM, e.g. http://127.0.0.1:8000/v1; --model is its name there, '
        '--slots the number of requests at the same time',
    )
    parser.add_argument(
        '--api-key-env',
        metavar='NAME',
        help='with --server: the environment variable that holds its key '
        '(default: no key)',
    )
    parser.add_argument(
        '--server-timeout',
        type=positive_float,
        metavar='S',
        help='with --server: the most seconds of one answer (default: 600)',
    )


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add an option for each sampling parameter."""
    group = parser.add_argument_group(
        'generation', "the default of each is the model's own setting"
    )
    for name, (kind, help_) in SETTINGS.items():
        flag = '--' + name.replace('_', '-')
        if kind is None:
            group.add_argument(
                flag,
                action=argparse.BooleanOptionalAction,
                default=None,
                help=help_,
            )
        else:
            group.add_argument(
                flag, type=kind, metavar=kind.__name__.upper(), help=help_
            )
    group.add_argument(
        '--stop',
        action='append',
        metavar='TEXT',
        help='end an answer before this text too; may be given several times',
    )


def add_answer_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--slots``, ``--workers``, ``--ray`` and sampling parameters."""
    parser.add_argument(
        '--slots',
        type=positive_int,
        default=8,
        help='answers generated at the same time (default: %(default)s)',
    )
    parser.add_argument(
        '--workers',
        type=positive_int,
        default=min(8, os.cpu_count() or 1),
        help='threads that decode images (default: %(default)s)',
    )
    add_ray_options(parser)
    add_settings(parser)


def add_ray_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--ray`` and ``--actors``."""
    parser.add_argument(
        '--ray',
        nargs='?',
        const='auto',
        type=ray_address,
        metavar='ADDRESS',
        help='run the model in actors of a Ray cluster: HOST:PORT, auto (the '
        'cluster that this machine is part of, or else a new one of this '
        'machine alone) or local (a new one); without ADDRESS: auto',
    )
    parser.add_argument(
        '--actors',
        type=positive_int,
        metavar='N',
        help='with --ray: how many (default: one for each GPU; without GPUs '
        'one for each machine, or several of equal size)',
    )


def ray_address(text: str) -> str:
    """The type of ``--ray``: ``HOST:PORT``, ``auto`` or ``local``."""
    from minigpt4.actors.cluster import check_address

    try:
        check_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f'{error}. Before a name, write --ray=auto'
        ) from error
    return text


def used_ray(args: argparse.Namespace) -> contextlib.AbstractContextManager:
    """The context in which a verb works on the cluster of ``--ray``.

    Raises:
        UsageError: An option does not go with the others.
    """
    if getattr(args, 'ray', None) is None:
        if getattr(args, 'actors', None) is not None:
            raise UsageError('--actors goes with --ray')
        return contextlib.nullcontext()
    device = getattr(args, 'device', None)
    if device not in (None, 'cpu', 'cuda'):
        raise UsageError(
            f'--device {device} with --ray: each actor has a GPU of its own; '
            'give cuda or cpu'
        )
    from minigpt4.actors.cluster import use_ray

    return use_ray(args.ray, args.actors, device)


def given_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The sampling parameters that a command line gives."""
    given = {name: getattr(args, name) for name in [*SETTINGS, 'stop']}
    return {name: value for name, value in given.items() if value is not None}


def check_server_options(args: argparse.Namespace) -> None:
    """Check the options that go, or do not go, with ``--server``.

    ``args.settings`` becomes the dict of the given sampling parameters.

    Raises:
        UsageError: One of them cannot be used.
    """
    from minigpt4.captioning.server import request_fields
    from minigpt4.generation.parse_settings import complete_settings

    if (args.server_timeout or 0) > _MAX_TIMEOUT_SECONDS:
        raise UsageError(
            f'--server-timeout {args.server_timeout:g} is too long; expected '
            f'at most {_MAX_TIMEOUT_SECONDS} seconds, a day'
        )
    for name in ('pretrained', 'device', 'ray', 'actors'):
        if getattr(args, name) is not None:
            raise UsageError(f'--{name} does not go with --server')
    try:
        args.settings = complete_settings(given_settings(args))
        request_fields(args.settings)
    except ValueError as error:
        raise UsageError(str(error)) from error


def check_model_options(args: argparse.Namespace) -> None:
    """Check ``--model``, ``--pretrained`` and the sampling parameters.

    ``args.settings`` becomes the dict of the given sampling parameters.

    Raises:
        UsageError: One of them cannot be used.
    """
    from minigpt4.generation.parse_settings import complete_settings
    from minigpt4.loading import check_model
    from minigpt4.utils.errors import one_line

    try:
        args.settings = complete_settings(given_settings(args))
        check_model(args.model, args.pretrained)
    except (OSError, ValueError) as error:
        raise UsageError(one_line(error)) from error


def path(text: str) -> Path:
    """The type of an option that names a file: ``~`` is expanded."""
    if not text:  # an unset variable of a script, not the current folder
        raise argparse.ArgumentTypeError(
            "'' is no path; expected the name of a file or folder"
        )
    return Path(text).expanduser()


def positive_int(text: str) -> int:
    """The type of an option that is a whole number above 0."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(
            f'{text} is not a whole number above 0'
        )
    return number


def positive_float(text: str) -> float:
    """The type of an option that is a finite number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0
    if not 0 < number < float('inf'):
        raise argparse.ArgumentTypeError(f'{text} is not a number above 0')
    return number
