# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The arguments of a model in a harness: ``--model_args name=value,...``."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from ..generation.parse_settings import read_bool
from ..utils.errors import short_json
from ..utils.suggest import suggest
from ..weights.model_hub import our_models
from .answering import default_workers

DEFAULT_MODEL = 'minigpt-4_nano_caption'
Likelihood = Literal['loss', 'log_likelihood']
_AUTO_SLOTS = 8
_KNOWN = (
    'model',
    'checkpoint',
    'pretrained',
    'device',
    'batch_size',
    'workers',
    'answers',
    'likelihood',
    'history',
)


@dataclass(frozen=True)
class ModelArguments:
    """The arguments, checked.

    Attributes:
        model: A name of the hub, or the file of a config.
        checkpoint: The file of a checkpoint; None is the published one.
        device: The device; None is the GPU if there is one.
        slots: The most requests that are generated at the same time.
        workers: Threads that read documents and decode images.
        answers: The folder in which answers are stored, from which an
            interrupted run continues; None stores nothing.
        likelihood: What stands for the likelihood of a text: ``'loss'``, its
            mean cross-entropy in nats per token, which is best when it is
            lowest, or ``'log_likelihood'``, the sum in nats, which is best
            when it is highest.
        history: Whether the rounds of a request with several rounds are the
            turns of one conversation.
    """

    model: str = DEFAULT_MODEL
    checkpoint: str | None = None
    device: str | None = None
    slots: int = 1
    workers: int = 1
    answers: Path | None = None
    likelihood: Likelihood = 'loss'
    history: bool = False


def read_arguments(
    batch_size: Any = None, device: Any = None, **given: Any
) -> ModelArguments:
    """Check the arguments of a model.

    Args:
        batch_size: A number of slots, or ``'auto'``, which is 8.
        device: The device.
        given: The others. ``pretrained`` is the name or config of a model, as
            with the models of lmms-eval, or the file of a checkpoint, as in
            the commands of this project.

    Raises:
        ValueError: An argument is unknown, has a wrong value, or is given
            two times.
    """
    for name in given:
        if name not in _KNOWN:
            close = suggest(name, _KNOWN)
            raise ValueError(
                f'there is no model argument {name!r}; '
                + (f'did you mean {close}? ' if close else '')
                + f'{"T" if close else "t"}here are {", ".join(_KNOWN)}.'
            )
    model, checkpoint = _model_and_checkpoint(given)
    answers = given.get('answers')
    likelihood = given.get('likelihood', 'loss')
    if likelihood not in get_args(Likelihood):
        raise ValueError(
            f'likelihood is {short_json(likelihood)}; expected '
            f'{" or ".join(get_args(Likelihood))}.'
        )
    return ModelArguments(
        model=model,
        checkpoint=checkpoint,
        device=None if device is None else str(device),
        slots=_number(
            'batch_size',
            _AUTO_SLOTS if str(batch_size).startswith('auto') else batch_size,
            default=1,
        ),
        workers=_number('workers', given.get('workers'), default_workers()),
        answers=None if answers is None else Path(str(answers)).expanduser(),
        likelihood=likelihood,
        history=_boolean('history', given.get('history', False)),
    )


def _model_and_checkpoint(given: dict[str, Any]) -> tuple[str, str | None]:
    model, checkpoint = given.get('model'), given.get('checkpoint')
    pretrained = given.get('pretrained')
    for name, value in (('model', model), ('checkpoint', checkpoint)):
        if value is not None and not isinstance(value, str):
            raise ValueError(
                f'{name} is {short_json(value)}; expected a name or a path.'
            )
    if pretrained is not None:
        text = str(pretrained)
        is_model = text.lower() in our_models() or text.endswith('.py')
        # neither a model nor a file: the error of an unknown model names all
        if not is_model and not os.path.exists(text) and model is None:
            is_model = True
        name, taken = (
            ('model', model) if is_model else ('checkpoint', checkpoint)
        )
        if taken is not None:
            raise ValueError(
                f'pretrained={text} is a {name}, and {name}={taken} is given '
                'too; give one of them.'
            )
        if is_model:
            model = text
        else:
            checkpoint = text
    return model or DEFAULT_MODEL, checkpoint


def _number(name: str, value: Any, default: int) -> int:
    if value is None:
        return default
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = 0
    if number < 1:
        raise ValueError(
            f'{name} is {short_json(value)}; expected a whole number of at '
            'least 1.'
        )
    return number


def _boolean(name: str, value: Any) -> bool:
    try:
        return read_bool(str(value))
    except ValueError:
        raise ValueError(
            f'{name} is {short_json(value)}; expected yes or no.'
        ) from None
