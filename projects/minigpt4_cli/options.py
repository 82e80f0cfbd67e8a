# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""What the verbs that answer have in common: a model, generation settings."""

import argparse
import contextlib
import difflib
import io
import logging
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import MMLogger

from minigpt4.captioning.inferencer import get_model
from minigpt4.generation.sampling import SamplingParams
from minigpt4.models import MiniGPT4
from minigpt4.utils.errors import one_line
from minigpt4.weights.hub import our_models

sentence = one_line  # for modules that import it by this name
DEFAULT_MODEL = 'minigpt-4_nano_caption'


def _yes_or_no(text: str) -> bool:
    words = {'true': True, 'yes': True, '1': True, 'on': True}
    words |= {'false': False, 'no': False, '0': False, 'off': False}
    if text.lower() not in words:
        raise ValueError(text)
    return words[text.lower()]


# setting: (how it is read, what it is)
SETTINGS: dict[str, tuple[Callable[[str], Any], str]] = {
    'max_new_tokens': (int, 'the longest answer, in tokens'),
    'min_new_tokens': (
        int,
        'the shortest answer, in tokens; before, nothing ends it',
    ),
    'do_sample': (_yes_or_no, 'draw each token instead of taking the best'),
    'temperature': (float, 'of sampling'),
    'top_k': (int, 'sample from the K best tokens'),
    'top_p': (float, 'sample from the best tokens of this probability'),
    'repetition_penalty': (float, 'above 1 against repeating'),
    'seed': (int, 'of sampling; the same answers each time'),
    'num_beams': (int, 'beams to search with'),
    'length_penalty': (float, 'of beams; above 0 for longer answers'),
}
_OF_SAMPLING = ('temperature', 'top_k', 'top_p')
_KINDS = {int: 'a whole number', float: 'a number', _yes_or_no: 'yes or no'}


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Let a verb choose its model."""
    parser.add_argument(
        '--model',
        default=DEFAULT_MODEL,
        metavar='NAME',
        help='a model of "minigpt4 download --list", or the file of a config '
        '(default: %(default)s)',
    )
    parser.add_argument(
        '--pretrained',
        metavar='FILE',
        help='a checkpoint of the projection, instead of the published one',
    )
    parser.add_argument('--device', help='cuda, cuda:1, cpu (default: a GPU)')


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Let a verb choose how answers are generated."""
    group = parser.add_argument_group(
        'generation', "what is left out is the model's own setting"
    )
    for name, (read, help_) in SETTINGS.items():
        flag = '--' + name.replace('_', '-')
        if read is _yes_or_no:
            group.add_argument(
                flag,
                action=argparse.BooleanOptionalAction,
                default=None,
                help=help_,
            )
        else:
            group.add_argument(
                flag, type=read, metavar=read.__name__.upper(), help=help_
            )
    group.add_argument(
        '--stop',
        action='append',
        metavar='TEXT',
        help='end an answer before this text too; may be given several times',
    )


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that a command line gives; see :func:`completed`."""
    names = [*SETTINGS, 'stop']
    given = {name: getattr(args, name) for name in names}
    return completed({k: v for k, v in given.items() if v is not None})


def parse_setting(text: str) -> tuple[str, Any]:
    """Read ``name=value``.

    Raises:
        ValueError: It is written otherwise, unknown, or of another type.
    """
    name, equals, value = text.partition('=')
    name = name.strip().replace('-', '_')
    if not equals:
        raise ValueError(
            f'{text!r} is no setting; write it as name=value, e.g. '
            'max_new_tokens=60.'
        )
    if name == 'stop':
        return name, [value]
    if name not in SETTINGS:
        close = difflib.get_close_matches(name, SETTINGS, n=1)
        raise ValueError(
            f'there is no setting {name!r}; '
            + (f'did you mean {close[0]}? ' if close else '')
            + f'{"T" if close else "t"}here are {", ".join(SETTINGS)}, stop.'
        )
    read = SETTINGS[name][0]
    try:
        return name, read(value.strip())
    except ValueError:
        raise ValueError(
            f'{name} is {value.strip()!r}; expected {_KINDS[read]}.'
        ) from None


def completed(settings: dict[str, Any]) -> dict[str, Any]:
    """SamplingParams, with sampling on where something of sampling is set.

    Without it ``temperature`` would be read and do nothing; temperature 0 is
    no sampling, as OpenAI has it.

    Raises:
        ValueError: A value is out of its range.
    """
    settings = dict(settings)
    if settings.get('temperature') == 0:
        settings = {k: v for k, v in settings.items() if k not in _OF_SAMPLING}
        settings['do_sample'] = False
    elif any(name in settings for name in _OF_SAMPLING):
        settings.setdefault('do_sample', True)
    # the model's own max_new_tokens is not known here
    SamplingParams.of({'max_new_tokens': sys.maxsize}, settings)
    return settings


def check_model(name: str, pretrained: str | None) -> None:
    """Refuse at once what cannot be loaded.

    Raises:
        ValueError: There is no such model, or a config without a checkpoint,
            or the checkpoint is a folder.
        FileNotFoundError: There is no such checkpoint.
    """
    models = our_models()
    known = models.get(name.lower())
    if known is None and not Path(name).is_file():
        close = difflib.get_close_matches(name.lower(), models, 1, 0.5)
        raise ValueError(
            f'there is no model and no config {name!r}; '
            + (f'did you mean {close[0]}?' if close else '')
            + ('' if close else f'there are {", ".join(models)}.')
        )
    if pretrained is not None and Path(pretrained).is_dir():
        raise ValueError(
            f'{pretrained} is a folder; give the file of a checkpoint as '
            '--pretrained.'
        )
    if pretrained is not None and not Path(pretrained).is_file():
        raise FileNotFoundError(
            f'{pretrained} does not exist; give the file of a checkpoint as '
            '--pretrained.'
        )
    if pretrained is None and not (known and known.weights):
        raise ValueError(
            f'no projection is published for {name}; give the file of one '
            'as --pretrained.'
        )


def load_model(
    name: str, pretrained: str | None = None, device: str | None = None
) -> MiniGPT4:
    """Build a model, with every failure as one sentence.

    Raises:
        ValueError: It cannot be built; also what :func:`check_model` raises.
        OSError: A file is missing or cannot be read.
    """
    check_model(name, pretrained)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return get_model(name, pretrained or True, device).eval()
    except pickle.UnpicklingError as error:
        raise ValueError(
            f'{pretrained} is no checkpoint that torch can read safely; '
            'give the file of a projection.'
        ) from error
    except Exception as error:  # of any kind: a config is a program
        expected = isinstance(error, (ImportError, OSError, ValueError))
        if expected and not isinstance(error, UnicodeError):
            raise
        source = name if pretrained is None else f'{name} with {pretrained}'
        raise ValueError(
            f'{source} could not be built ({type(error).__name__}: '
            f'{one_line(error)}); "minigpt4 doctor" may know more.'
        ) from error


def own_prompt(name: str) -> str:
    """The question of a model for captions, without building it.

    Raises:
        ValueError: The file is no config of a model.
    """
    known = our_models().get(name.lower())
    try:
        model = Config.fromfile(known.config if known else name).model
    except Exception as error:  # of any kind: a config is a program
        raise ValueError(
            f'{name} is no config of a model ({one_line(error)}); give the '
            'name of a model or the file of its config.'
        ) from error
    return model.get('prompt', '')


@contextlib.contextmanager
def quiet_logs(bars: bool = True) -> Iterator[None]:
    """Keep standard output for answers: warnings alone, on standard error.

    Args:
        bars: Whether somebody who looks on sees how far a large model is.
    """
    from transformers.utils import logging as transformers_logging

    logger = MMLogger.get_current_instance()
    kept = [
        (handler, handler.stream, handler.level)
        for handler in logger.handlers
        if type(handler) is logging.StreamHandler
    ]
    enabled = transformers_logging.is_progress_bar_enabled()
    for handler, _, _ in kept:
        handler.setStream(sys.stderr)
        handler.setLevel(logging.WARNING)
    if not (bars and sys.stderr.isatty()):
        transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        for handler, stream, level in kept:
            handler.setStream(stream)
            handler.setLevel(level)
        if enabled:
            transformers_logging.enable_progress_bar()
