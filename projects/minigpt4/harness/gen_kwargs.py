# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Generation settings of lmms-eval's tasks to sampling parameters."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..generation.sampling_params import SamplingParams
from ..utils.errors import short_json
from ..utils.suggest import suggest

# other names of one parameter
_NAMES = {'max_gen_toks': 'max_new_tokens', 'max_tokens': 'max_new_tokens'}
_SAMPLING = ('temperature', 'top_p', 'top_k')
_OTHERS = (
    'max_new_tokens',
    'min_new_tokens',
    'num_beams',
    'repetition_penalty',
    'length_penalty',
    'seed',
)
_STOPS = ('until', 'stop', 'stop_sequences')
# They cannot change the answer of this model: settings of other models'
# image preprocessing, and of transformers.
_IGNORED = frozenset(
    (
        'image_aspect_ratio',
        'max_agentic_steps',
        'pad_token_id',
        'return_dict_in_generate',
        'skip_special_tokens',
        'use_cache',
    )
)
# accepted with the value 1 only
_COUNTS = ('n', 'best_of', 'num_return_sequences')
_KNOWN = (*_OTHERS, *_SAMPLING, 'do_sample', *_STOPS, *_COUNTS)


def sampling_settings(gen_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the ``generation_kwargs`` of a task.

    ``do_sample`` decides whether tokens are sampled; without it a
    temperature above 0 does. A temperature of 0 is greedy decoding. Values of
    None are those of the model.

    Args:
        gen_kwargs: Settings of a task.

    Returns:
        Sampling parameters, for ``Engine.submit``.

    Raises:
        ValueError: A setting is unknown, not supported, or out of its range.
    """
    given = {
        _NAMES.get(name, name): value
        for name, value in gen_kwargs.items()
        if value is not None and name not in _IGNORED
    }
    for name in given:
        if name not in _KNOWN:
            close = suggest(name, _KNOWN)
            raise ValueError(
                f'generation_kwargs has {name}={short_json(given[name])}, '
                'which this model does not support; '
                + (
                    f'did you mean {close}?'
                    if close
                    else f'remove it, or use one of {", ".join(_KNOWN)}.'
                )
            )
    for name in _COUNTS:
        if given.get(name, 1) != 1:
            raise ValueError(
                f'generation_kwargs has {name}={short_json(given[name])}; '
                'this model gives one answer to a request: set it to 1, and '
                '"repeats" of the task for several answers.'
            )
    settings = {name: given[name] for name in _OTHERS if name in given}
    temperature = given.get('temperature')
    samples = given.get('do_sample', bool(temperature))
    if temperature == 0:
        samples = False
    if samples is not False:
        settings |= {name: given[name] for name in _SAMPLING if name in given}
    settings['do_sample'] = samples
    stop = _stop_strings(given)
    if stop:
        settings['stop'] = stop
    # the limit of the model is not known here
    SamplingParams.of(
        {'max_new_tokens': max(1, settings.get('min_new_tokens', 1))},
        settings,
    )
    return settings


def _stop_strings(given: Mapping[str, Any]) -> list[str]:
    """The stop strings of all their names; empty ones are none."""
    stop: list[str] = []
    for name in _STOPS:
        value = given.get(name, ())
        texts = [value] if isinstance(value, str) else value
        if not isinstance(texts, Sequence) or not all(
            isinstance(text, str) for text in texts
        ):
            raise ValueError(
                f'generation_kwargs has {name}={short_json(value)}; expected '
                'a text or a list of texts.'
            )
        stop += [text for text in texts if text]
    return list(dict.fromkeys(stop))
