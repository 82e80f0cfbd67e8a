# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Sampling parameters as users give them: ``name=value``, or options."""

import sys
from collections.abc import Callable
from typing import Any

from ..utils.suggest import suggest
from .sampling_params import SamplingParams


def read_bool(text: str) -> bool:
    """Read yes, true, 1 or on, and their opposites.

    Raises:
        ValueError: It is another word.
    """
    words = {'true': True, 'yes': True, '1': True, 'on': True}
    words |= {'false': False, 'no': False, '0': False, 'off': False}
    if text.lower() not in words:
        raise ValueError(text)
    return words[text.lower()]


# parameter: how its text is read; stop is a list of texts
PARSERS: dict[str, Callable[[str], Any]] = {
    'max_new_tokens': int,
    'min_new_tokens': int,
    'do_sample': read_bool,
    'temperature': float,
    'top_k': int,
    'top_p': float,
    'repetition_penalty': float,
    'seed': int,
    'num_beams': int,
    'length_penalty': float,
}
_ONLY_SAMPLING = ('temperature', 'top_k', 'top_p')
_KINDS = {int: 'a whole number', float: 'a number', read_bool: 'yes or no'}


def parse_setting(text: str) -> tuple[str, Any]:
    """Read ``name=value``.

    Raises:
        ValueError: It is written otherwise, unknown, or of another type.
    """
    name, equals, value = text.partition('=')
    name = name.strip().replace('-', '_')
    if not equals:
        raise ValueError(
            f'{text!r} is not a setting; write it as name=value, e.g. '
            'max_new_tokens=60.'
        )
    if name == 'stop':
        return name, [value]
    if name not in PARSERS:
        close = suggest(name, PARSERS)
        raise ValueError(
            f'there is no setting {name!r}; '
            + (f'did you mean {close}? ' if close else '')
            + f'{"T" if close else "t"}here are {", ".join(PARSERS)}, stop.'
        )
    read = PARSERS[name]
    try:
        return name, read(value.strip())
    except ValueError:
        raise ValueError(
            f'{name} is {value.strip()!r}; expected {_KINDS[read]}.'
        ) from None


def complete_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Turn sampling on where a parameter of sampling is given.

    Without it ``temperature`` would be read and do nothing; temperature 0 is
    no sampling, as OpenAI has it.

    Raises:
        ValueError: A value is out of its range.
    """
    settings = dict(settings)
    if settings.get('temperature') == 0:
        settings = {
            k: v for k, v in settings.items() if k not in _ONLY_SAMPLING
        }
        settings['do_sample'] = False
    elif any(name in settings for name in _ONLY_SAMPLING):
        settings.setdefault('do_sample', True)
    # the model's own max_new_tokens is not known here
    SamplingParams.of({'max_new_tokens': sys.maxsize}, settings)
    return settings
