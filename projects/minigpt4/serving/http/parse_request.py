# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Parse a request to ``/v1/chat/completions``: JSON to turns and parameters.

A parameter that would change the answer and is not supported is refused by
its name; parameters that cannot change it are ignored.
"""

import json
from dataclasses import dataclass, field
from typing import Any

from ...generation.sampling_params import MIN_TEMPERATURE
from ...prompts import Template, Turn
from ...utils.short_text import to_ascii
from .errors import (
    ApiError,
    BadRequest,
    describe_exception,
    format_value,
    kind_of,
)
from .json_values import boolean, number, string
from .messages import read_messages

# An empty list takes two bytes in JSON and sixty in memory. A request has
# few lists and fields, and base64 has none of these characters.
_STRUCTURE, _MAX_STRUCTURE = (b'[', b'{', b','), 300_000
# A text of 100,000 characters has at most as many; base64 has none.
_ESCAPE, _MAX_ESCAPES = b'\\u', 1_000_000
MAX_STOPS = 4  # OpenAI's limit
MAX_STOP_CHARACTERS = 100
# They cannot change the answer.
IGNORED = frozenset(
    (
        'metadata',
        'parallel_tool_calls',
        'prompt_cache_key',
        'prompt_cache_retention',
        'safety_identifier',
        'service_tier',
        'store',
        'user',
    )
)
# Parameters of OpenAI that are accepted with the default value only.
_DEFAULT_ONLY: dict[str, Any] = {
    'n': 1,
    'frequency_penalty': 0,
    'presence_penalty': 0,
    'logprobs': False,
    'top_logprobs': 0,
    'logit_bias': {},
    'tools': [],
    'tool_choice': 'none',
    'functions': [],
    'function_call': 'none',
    'modalities': ['text'],
    'response_format': {'type': 'text'},
}
# lowest and highest value
_FLOATS = {'repetition_penalty': (0.01, 10), 'length_penalty': (-10, 10)}


@dataclass(frozen=True)
class RequestLimits:
    """Limits of one request.

    Attributes:
        body: The maximum number of bytes of its body.
        images: The maximum number of images of its conversation.
        max_tokens: The maximum number of tokens of an answer.
        beams: The maximum number of beams; all other requests wait during a
            beam search.
        text: The maximum number of characters of its messages.
        seconds: The maximum time of a request, waiting included.
        client_requests: The maximum number of requests of one client that
            run or wait at the same time; 0 for no limit.
    """

    body: int = 64 * 2**20
    images: int = 8
    max_tokens: int = 2048
    beams: int = 1
    text: int = 100_000
    seconds: float = 600.0
    client_requests: int = 0


@dataclass
class ChatRequest:
    """A parsed request.

    Attributes:
        model: The requested model, or None.
        turns: The conversation; its last answer is None.
        images: URLs of the images, in their order.
        system: The system message, or None.
        settings: Sampling parameters that replace the model's own.
        stream: Whether the answer is sent as events.
        include_usage: Whether the events end with the usage.
        truncate: Whether the oldest turns may be dropped if the conversation
            exceeds the context.
    """

    model: str | None = None
    turns: list[Turn] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    system: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    stream: bool = False
    include_usage: bool = False
    truncate: bool = False


def parse_request(
    body: bytes,
    template: Template,
    default_question: str = '',
    limits: RequestLimits | None = None,
) -> ChatRequest:
    """Parse the body of a request.

    Args:
        body: JSON in the format of OpenAI's API.
        template: The model's prompt template.
        default_question: The question of a message with images and no text.
        limits: The limits of the request.

    Raises:
        BadRequest: The body is malformed, or has an unsupported parameter.
    """
    limits = limits or RequestLimits()
    parameters = _load_object(body)
    if 'messages' not in parameters:
        raise BadRequest(
            'messages are missing; expected a list that ends with a user '
            'message.',
            'messages',
        )
    turns, images, system = read_messages(
        parameters.pop('messages'),
        template,
        default_question,
        limits.images,
        limits.text,
    )
    request = ChatRequest(None, turns, images, system)
    if 'model' in parameters:
        request.model = string('model', parameters.pop('model'))
    request.stream = boolean('stream', parameters.pop('stream', False))
    request.include_usage = _include_usage(
        parameters.pop('stream_options', {}), request.stream
    )
    truncation = parameters.pop('truncation', 'disabled')
    if truncation not in ('auto', 'disabled'):
        raise BadRequest(
            f'truncation is {format_value(truncation)}; expected "auto" or '
            '"disabled".',
            'truncation',
        )
    request.truncate = truncation == 'auto'
    request.settings = _take_settings(parameters, limits)
    for name, value in parameters.items():
        _check_default(name, value)
    return request


def check_model(requested: str | None, served: str) -> None:
    """Refuse a request for another model.

    Raises:
        ApiError: 404.
    """
    if requested not in (None, served):
        raise ApiError(
            404,
            f'there is no model {format_value(requested)} here; expected '
            f'{format_value(served)}.',
            'model',
            'model_not_found',
        )


def _load_object(body: bytes) -> dict[str, Any]:
    """Load a JSON object without null values and ignored parameters."""
    if sum(map(body.count, _STRUCTURE)) > _MAX_STRUCTURE:
        raise BadRequest('the body has more lists and fields than any chat.')
    # one character is counted four times as fast as two
    backslashes = body.count(_ESCAPE[:1])
    if backslashes > _MAX_ESCAPES and body.count(_ESCAPE) > _MAX_ESCAPES:
        raise BadRequest(
            f'the body has more than {_MAX_ESCAPES:,} escaped characters; '
            'send UTF-8.'
        )
    try:
        content = json.loads(body)
    except RecursionError:
        raise BadRequest('the body is nested too deeply.') from None
    except ValueError as error:
        raise BadRequest(
            f'the body is not JSON ({describe_exception(error)}); expected an '
            'object with "messages".'
        ) from error
    if not isinstance(content, dict):
        raise BadRequest(
            f'the body is {kind_of(content)}; expected an object with '
            '"messages".'
        )
    return {
        name: value
        for name, value in content.items()
        if value is not None and name not in IGNORED
    }


def _check_default(name: str, value: Any) -> None:
    """Refuse a parameter that is unknown, or has an unsupported value."""
    if name not in _DEFAULT_ONLY:
        raise BadRequest(
            f'the parameter {format_value(name)} is not supported; omit it.',
            to_ascii(name[:100]),
            'unsupported_parameter',
        )
    default = _DEFAULT_ONLY[name]
    if value != default or isinstance(value, bool) != isinstance(
        default, bool
    ):
        raise BadRequest(
            f'{name} is {format_value(value)}, which is not supported; omit '
            f'it, or send {json.dumps(default)}.',
            name,
            'unsupported_value',
        )


def _include_usage(options: Any, stream: bool) -> bool:
    """Whether ``stream_options`` ask for the usage."""
    if not isinstance(options, dict):
        raise BadRequest(
            f'stream_options is {kind_of(options)}; expected an object.',
            'stream_options',
        )
    if options and not stream:
        raise BadRequest(
            'stream_options are given without "stream": true; omit them.',
            'stream_options',
        )
    for name in options:
        if name not in ('include_usage', 'include_obfuscation'):
            raise BadRequest(
                f'stream_options has {format_value(name)}, which is not '
                'supported; omit it.',
                'stream_options',
                'unsupported_parameter',
            )
    return boolean(
        'stream_options.include_usage', options.get('include_usage') or False
    )


def _take_settings(
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
