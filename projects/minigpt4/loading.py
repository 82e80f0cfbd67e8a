# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Build a model by name or config.

:func:`get_model` is the Python API; the commands call :func:`load_model`,
which gives every error in one sentence.
"""

import contextlib
import io
import logging
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger

from .models import MiniGPT4
from .utils.errors import one_line
from .weights.model_hub import (
    check_name,
    our_models,
    read_config,
    require_weights,
    unknown_model_error,
)

# of each context of kept_model, the last model by its arguments
_kept_models: list[dict[tuple, MiniGPT4]] = []


def get_model(
    model: 'str | Path | Config | MiniGPT4',
    pretrained: 'bool | str | Path' = True,
    device: str | None = None,
    **kwargs: Any,
) -> MiniGPT4:
    """Build a model of the hub, or of a config, with its weights.

    Args:
        model: A name such as ``'minigpt-4_nano_caption'``, a config or its
            file, or a model, which is only moved to ``device``.
        pretrained: Whether to load the published checkpoint, or the path of
            another one.
        device: Where to load the model, e.g. ``'cuda:1'``; None is the GPU
            if there is one, and leaves a model where it is.
        kwargs: Settings that replace those of the config's ``model``, e.g.
            ``decoder=dict(name_or_path='vicuna-7b')``.

    Returns:
        The model, in eval mode.

    Raises:
        FileNotFoundError: A config, a checkpoint or weights do not exist.
        ValueError: There is no such model or device, the model has no
            published checkpoint, or a checkpoint does not match it.
    """
    if device is None:
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
        if isinstance(model, MiniGPT4):
            return model
    check_device(device)
    if isinstance(model, MiniGPT4):
        return model.to(device)
    _check_checkpoint(pretrained)
    if isinstance(model, (str, Path)):
        model = str(model)
        if model.endswith('.py'):
            model = read_config(model)
        else:
            check_name(model)
            if pretrained is True:
                require_weights(model)
    if not isinstance(model, str):
        _check_config(model, pretrained)
    import mmpretrain

    built = mmpretrain.get_model(
        model,
        pretrained=str(pretrained)
        if isinstance(pretrained, Path)
        else pretrained,
        device=device,
        **kwargs,
    )
    if not isinstance(built, MiniGPT4):
        raise ValueError(
            f'the model is a {type(built).__name__}, not a MiniGPT4; build it '
            'with mmpretrain.get_model.'
        )
    return built


def check_device(device: str) -> None:
    """Refuse a device that torch does not find.

    Raises:
        ValueError: There is no such device.
    """
    try:
        requested = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f'the device is {device!r}; expected cpu, cuda, cuda:1 or mps.'
        ) from error
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if requested.type == 'cuda' and (requested.index or 0) >= count:
        raise ValueError(
            f'the device is {device!r}, but torch finds {count} GPUs; give '
            f'{"cuda:0" if count else "cpu"}, or run "minigpt4 doctor".'
        )
    if requested.type == 'mps' and not torch.backends.mps.is_available():
        raise ValueError(
            "the device is 'mps', but torch finds no Apple GPU; give cpu."
        )


def _check_checkpoint(pretrained: 'bool | str | Path') -> None:
    """Refuse a checkpoint that does not exist before the model is built."""
    name = '' if isinstance(pretrained, bool) else str(pretrained)
    if not name or '://' in name:
        return
    path = Path(name).expanduser()
    if not path.exists():
        raise FileNotFoundError(
            f'the checkpoint {name} does not exist; give the path of a file '
            'as pretrained.'
        )
    if not path.is_file():
        raise ValueError(
            f'the checkpoint {name} is not a regular file; give a file '
            '(.pth or .safetensors) as pretrained.'
        )


def _check_config(config: object, pretrained: 'bool | str | Path') -> None:
    """Refuse a config without a model, or without a trained projection."""
    if not isinstance(config, Config):
        raise ValueError(
            f'the model is a {type(config).__name__}; expected the name of a '
            'model, a config or its file, or a MiniGPT4.'
        )
    file = config.filename or 'the config'
    if not isinstance(config.get('model'), dict):
        raise ValueError(
            f'{file} has no model; give a config with model=dict(type='
            "'minigpt4.MiniGPT4', ...)."
        )
    if pretrained is True and not config.get('load_from'):
        raise ValueError(
            f'{file} names no trained projection (load_from); give the file '
            "of one as pretrained='FILE', or pretrained=False for an "
            'untrained layer.'
        )


def check_model(name: str, pretrained: str | None) -> None:
    """Check the model and checkpoint of a command before they are loaded.

    Raises:
        ValueError: The model does not exist, or has no published checkpoint,
            or the checkpoint is a folder.
        FileNotFoundError: The checkpoint does not exist.
    """
    models = our_models()
    known = models.get(name.lower())
    if known is None and not Path(name).is_file():
        raise unknown_model_error(name, models, 'the file of a config (.py)')
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
    """Build a model for a command; give every error in one sentence.

    LoRA is merged into its LLM, which is then as fast as one without.

    Args:
        name: A name of the hub, or the file of a config.
        pretrained: The file of a checkpoint; None is the published one.
        device: The device; None is the GPU if there is one.

    Raises:
        ValueError: The model cannot be built, or :func:`check_model` refuses
            it.
        OSError: A file is missing or cannot be read.
    """
    check_model(name, pretrained)
    kept = _kept_models[-1] if _kept_models else {}
    if (name, pretrained, device) in kept:
        return kept[name, pretrained, device]
    kept.clear()  # only one model is in memory
    kept[name, pretrained, device] = model = _load(name, pretrained, device)
    return model


@contextlib.contextmanager
def kept_model() -> Iterator[None]:
    """While this context lasts, :func:`load_model` keeps the last model."""
    _kept_models.append({})
    try:
        yield
    finally:
        _kept_models.pop()


def _load(name: str, pretrained: str | None, device: str | None) -> MiniGPT4:
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            model = get_model(name, pretrained or True, device).eval()
        merge = getattr(model.decoder, 'merge_lora', None)
        if merge is not None:  # a decoder of a plugin may have none
            merge()
        return model
    except pickle.UnpicklingError as error:
        raise ValueError(
            f'{pretrained} is not a checkpoint that torch can read '
            'safely; give the file of a projection.'
        ) from error
    except Exception as error:  # a config is a program and may raise anything
        expected = isinstance(error, (ImportError, OSError, ValueError))
        if expected and not isinstance(error, UnicodeError):
            raise
        source = name if pretrained is None else f'{name} with {pretrained}'
        raise ValueError(
            f'{source} could not be built ({type(error).__name__}: '
            f'{one_line(error)}); "minigpt4 doctor" may know more.'
        ) from error


def read_prompt(name: str) -> str:
    """Read the caption prompt of a model from its config.

    Raises:
        ValueError: The file is not the config of a model.
    """
    known = our_models().get(name.lower())
    try:
        model = Config.fromfile(known.config if known else name).model
    except Exception as error:  # a config is a program and may raise anything
        raise ValueError(
            f'{name} is not the config of a model ({one_line(error)}); give '
            'the name of a model or the file of its config.'
        ) from error
    return model.get('prompt', '')


@contextlib.contextmanager
def quiet_logs(bars: bool = True) -> Iterator[None]:
    """Log only warnings, and those to standard error.

    Args:
        bars: Whether a terminal shows the progress of loading a model.
    """
    from transformers.utils import logging as transformers_logging

    logger = MMLogger.get_current_instance()
    saved = [
        (handler, handler.stream, handler.level)
        for handler in logger.handlers
        if type(handler) is logging.StreamHandler
    ]
    enabled = transformers_logging.is_progress_bar_enabled()
    for handler, _, _ in saved:
        # setStream() would flush the old stream, which may be closed
        handler.stream = sys.stderr
        handler.setLevel(logging.WARNING)
    if not (bars and sys.stderr.isatty()):
        transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        for handler, stream, level in saved:
            handler.stream = stream
            handler.setLevel(level)
        if enabled:
            transformers_logging.enable_progress_bar()
