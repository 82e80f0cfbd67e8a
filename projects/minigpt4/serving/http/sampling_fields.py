# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The sampling parameters of a request to ``/v1/chat/completions``."""

from typing import Any

from ...generation.sampling_params import MAX_LOGPROBS, MIN_TEMPERATURE
from .errors import BadRequest, format_value
from .json_values import boolean, number, string
from .request_limits import RequestLimits

MAX_STOPS = 4  # OpenAI's limit
MAX_STOP_CHARACTERS = 100
# lowest and highest value
_FLOATS = {'repetition_penalty': (0.01, 10), 'length_penalty': (-10, 10)}


def take_settings(
    parameters: dict[str, Any], limits: RequestLimits
) -> dict[str, Any]:
    """Remove the sampling parameters from a request, and check them."""
    settings: dict[str, Any] = {}
    max_tokens = [
        number(name, parameters.pop(name), 1, limits.max_tokens, integer=True)
        for name in ('max_completion_tokens', 'max_tokens')
        if name in parameters
    ]
    if len(set(max_tokens)) > 1:
        raise BadRequest(
            f'max_completion_tokens is {max_tokens[0]} and max_tokens '
            f'{max_tokens[1]}; send only one of them.',
            'max_tokens',
        )
    if max_tokens:
        settings['max_new_tokens'] = max_tokens[0]
    settings.update(_take_sampling(parameters))
    integers: dict[str, tuple[str, int, int]] = {
        'seed': ('seed', -(2**63), 2**63 - 1),
        'min_tokens': ('min_new_tokens', 0, limits.max_tokens),
        'num_beams': ('num_beams', 1, 100),
    }
    for name, (setting, low, high) in integers.items():
        if name in parameters:
            settings[setting] = number(
                name, parameters.pop(name), low, high, integer=True
            )
    beams = settings.get('num_beams', 1)
    if beams > limits.beams:
        raise BadRequest(
            f'num_beams is {beams}; this server allows at most '
            f'{limits.beams}, because all requests wait during a beam '
            'search: start it with another --max-beams.',
            'num_beams',
        )
    if beams == 1 and 'length_penalty' in parameters:
        raise BadRequest(
            'length_penalty has no effect without num_beams; omit it.',
            'length_penalty',
        )
    for name, (lowest, highest) in _FLOATS.items():
        if name in parameters:
            settings[name] = number(
                name, parameters.pop(name), lowest, highest
            )
    settings.update(_take_logprobs(parameters, beams))
    if 'stop' in parameters:
        settings['stop'] = _stop_strings(parameters.pop('stop'))
    return settings


def _take_sampling(parameters: dict[str, Any]) -> dict[str, Any]:
    """Remove temperature, top_p and top_k from a request, and check them.

    Without them the model's own setting applies. Temperature 0, or one too
    small to divide by, is greedy. top_p or top_k without a temperature
    samples with the model's own temperature.
    """
    settings: dict[str, Any] = {}
    if 'top_p' in parameters:
        top_p = number('top_p', parameters.pop('top_p'), 0, 1)
        if top_p < 1:
            settings['top_p'] = max(top_p, 1e-6)
    if 'top_k' in parameters:
        settings['top_k'] = number(
            'top_k', parameters.pop('top_k'), 1, 2**31, integer=True
        )
    if 'temperature' in parameters:
        temperature = number(
            'temperature', parameters.pop('temperature'), 0, 2
        )
        if temperature < MIN_TEMPERATURE:
            return {'do_sample': False}
        settings['temperature'] = temperature
    return {'do_sample': True, **settings} if settings else {}


def _take_logprobs(parameters: dict[str, Any], beams: int) -> dict[str, Any]:
    """Remove logprobs and top_logprobs from a request, and check them."""
    logprobs = boolean('logprobs', parameters.pop('logprobs', False))
    top = number(
        'top_logprobs',
        parameters.pop('top_logprobs', 0),
        0,
        MAX_LOGPROBS,
        integer=True,
    )
    if not logprobs:
        if top:
            raise BadRequest(
                f'top_logprobs is {top} without "logprobs": true; send both, '
                'or neither.',
                'top_logprobs',
            )
        return {}
    if beams > 1:
        raise BadRequest(
            f'logprobs is true with num_beams {beams}; expected one of them, '
            'because a beam search records no log-probabilities.',
            'logprobs',
        )
    return {'logprobs': top}


def _stop_strings(stop: Any) -> list[str]:
    """Check the stop strings."""
    stops = [stop] if isinstance(stop, str) else stop
    if (
        not isinstance(stops, list)
        or len(stops) > MAX_STOPS
        or not all(isinstance(text, str) for text in stops)
        or not all(0 < len(text) <= MAX_STOP_CHARACTERS for text in stops)
    ):
        raise BadRequest(
            f'stop is {format_value(stop)}; expected a text, or up to '
            f'{MAX_STOPS} of them, of 1 to {MAX_STOP_CHARACTERS} characters.',
            'stop',
        )
    return [string('stop', text) for text in stops]
