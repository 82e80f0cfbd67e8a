# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Build a model for a command: by name or config, errors in one sentence."""

import contextlib
import difflib
import io
import logging
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config
from mmengine.logging import MMLogger

from .captioning.inferencer import get_model
from .models import MiniGPT4
from .utils.errors import one_line
from .weights.hub import our_models


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
