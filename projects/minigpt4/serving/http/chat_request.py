# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A request to ``/v1/chat/completions``: from JSON to turns and settings.

Whatever would change the answer and is not supported is refused by its name;
only what cannot change it is passed over.
"""

import json
from dataclasses import dataclass, field
from typing import Any

from ...generation.sampling import MIN_TEMPERATURE
from ...prompts.prompt import PromptTemplate, Turn
from .chat_messages import read_messages
from .request_values import (
    BadRequest,
    RequestLimits,
    ascii_of,
    boolean,
    kind_of,
    number,
    shown,
    string,
)

# A list in JSON is two bytes and takes sixty in memory; a request has few,
# and a picture's base64 has none of the signs that make them.
_SIGNS, _MAX_SIGNS = (b'[', b'{', b','), 300_000
# A text of 100,000 characters has at most as many; base64 has none.
_ESCAPE, _MAX_ESCAPES = b'\\u', 1_000_000
MAX_STOPS = 4  # as OpenAI has it
# They cannot change the answer.
PASSED_OVER = frozenset(
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
# Parameters of OpenAI's that are taken with these values alone, which ask
# for what is done anyway.
_ONLY: dict[str, tuple] = {
    'n': (1,),
    'frequency_penalty': (0,),
    'presence_penalty': (0,),
    'logprobs': (False,),
    'top_logprobs': (0,),
    'logit_bias': ({},),
    'tools': ([],),
    'tool_choice': ('none',),
    'functions': ([],),
    'function_call': ('none',),
    'modalities': (['text'],),
    'response_format': ({'type': 'text'},),
}


@dataclass
class ChatRequest:
    """What a request asks.

    Attributes:
        model: The model's name, or None where none is given.
        turns: The conversation; its last answer is None.
        images: URLs of the images, in their order.
        system: The system message; None where there is none.
        settings: Of generation, over the model's own.
        stream: Whether the answer is to come as events.
        include_usage: Whether the events end with the usage.
        truncate: Whether the oldest turns may be dropped where the
            conversation is longer than the context.
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
    template: PromptTemplate,
    prompt: str = '',
    limits: RequestLimits | None = None,
) -> ChatRequest:
    """Read the body of a request.

    Args:
        body: JSON as OpenAI's API has it.
        template: The model's prompt template.
        prompt: The question of a message that has images and no text.
        limits: What it may ask for.

    Raises:
        BadRequest: It is no such JSON, or asks for what is not supported.
    """
    limits = limits or RequestLimits()
    if sum(map(body.count, _SIGNS)) > _MAX_SIGNS:
        raise BadRequest('the body has more lists and fields than any chat.')
    if body.count(_ESCAPE) > _MAX_ESCAPES:
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
            f'the body is no JSON ({shown(error)}); expected an object with '
            '"messages".'
        ) from error
    if not isinstance(content, dict):
        raise BadRequest(
            f'the body is {kind_of(content)}; expected an object with '
            '"messages".'
        )
    given = {k: v for k, v in content.items() if v is not None}
    for name in PASSED_OVER:
        given.pop(name, None)
    request = ChatRequest()
    if 'messages' not in given:
        raise BadRequest(
            'messages are missing; expected a list that ends with a message '
            'of the user.',
            'messages',
        )
    request.turns, request.images, request.system = read_messages(
        given.pop('messages'), template, prompt, limits
    )
    if 'model' in given:
        request.model = string('model', given.pop('model'))
    request.stream = boolean('stream', given.pop('stream', False))
    request.include_usage = _stream_options(
        given.pop('stream_options', {}), request.stream
    )
    truncation = given.pop('truncation', 'disabled')
    if truncation not in ('auto', 'disabled'):
        raise BadRequest(
            f'truncation is {shown(truncation)}; expected "auto" or '
            '"disabled".',
            'truncation',
        )
    request.truncate = truncation == 'auto'
    request.settings = _settings(given, limits)
    for name, value in given.items():  # what nobody took
        if name not in _ONLY:
            raise BadRequest(
                f'the parameter {shown(name)} is not supported; leave it out.',
                ascii_of(name),
                'unsupported_parameter',
            )
        if value not in _ONLY[name] or isinstance(value, bool) != isinstance(
            _ONLY[name][0], bool
        ):
            raise BadRequest(
                f'{name} is {shown(value)}, which is not supported; leave '
                f'it out, or send {json.dumps(_ONLY[name][0])}.',
                name,
                'unsupported_value',
            )
    return request


def _stream_options(options: Any, stream: bool) -> bool:
    """Whether the usage is to end the stream."""
    if not isinstance(options, dict):
        raise BadRequest(
            f'stream_options is {kind_of(options)}; expected an object.',
            'stream_options',
        )
    if options and not stream:
        raise BadRequest(
            'stream_options are given without "stream": true; leave them out.',
            'stream_options',
        )
    for name in options:
        if name not in ('include_usage', 'include_obfuscation'):
            raise BadRequest(
                f'stream_options has {shown(name)}, which is not supported; '
                'leave it out.',
                'stream_options',
                'unsupported_parameter',
            )
    return boolean(
        'stream_options.include_usage', options.get('include_usage') or False
    )


def _settings(given: dict, limits: RequestLimits) -> dict[str, Any]:
    """Take the settings of generation out of a request."""
    settings: dict[str, Any] = {}
    tokens = [
        number(name, given.pop(name), 1, limits.max_tokens, whole=True)
        for name in ('max_completion_tokens', 'max_tokens')
        if name in given
    ]
    if len(set(tokens)) > 1:
        raise BadRequest(
            f'max_completion_tokens is {tokens[0]} and max_tokens '
            f'{tokens[1]}; give one of them.',
            'max_tokens',
        )
    if tokens:
        settings['max_new_tokens'] = tokens[0]
    settings.update(_sampling(given))
    whole: dict[str, tuple[str, int, int]] = {
        'seed': ('seed', -(2**63), 2**63 - 1),
        'min_tokens': ('min_new_tokens', 0, limits.max_tokens),
        'num_beams': ('num_beams', 1, 100),
    }
    for name, (ours, low, high) in whole.items():
        if name in given:
            settings[ours] = number(
                name, given.pop(name), low, high, whole=True
            )
    beams = settings.get('num_beams', 1)
    if beams > limits.beams:
        raise BadRequest(
            f'num_beams is {beams}; this server searches with {limits.beams} '
            'at most, for everybody waits for them: start it with another '
            '--max-beams.',
            'num_beams',
        )
    if beams == 1 and 'length_penalty' in given:
        raise BadRequest(
            'length_penalty does nothing without num_beams; leave it out.',
            'length_penalty',
        )
    lowest = {'repetition_penalty': 0.01, 'length_penalty': -10}
    for name, least in lowest.items():
        if name in given:
            settings[name] = number(name, given.pop(name), least, 10)
    if 'stop' in given:
        settings['stop'] = _stops(given.pop('stop'))
    return settings


def _sampling(given: dict) -> dict[str, Any]:
    """How to draw: as the model does by itself where nothing is asked.

    Temperature 0, or one too small to divide by, is greedy. A request that
    narrows the choice (top_p, top_k) without a temperature is drawn with the
    model's own temperature.
    """
    settings: dict[str, Any] = {}
    if 'top_p' in given:
        top_p = number('top_p', given.pop('top_p'), 0, 1)
        if top_p < 1:
            settings['top_p'] = max(top_p, 1e-6)
    if 'top_k' in given:
        settings['top_k'] = number(
            'top_k', given.pop('top_k'), 1, 2**31, whole=True
        )
    if 'temperature' in given:
        temperature = number('temperature', given.pop('temperature'), 0, 2)
        if temperature < MIN_TEMPERATURE:
            return {'do_sample': False}
        settings['temperature'] = temperature
    return {'do_sample': True, **settings} if settings else {}


def _stops(stop: Any) -> list[str]:
    """The texts to stop at."""
    stops = [stop] if isinstance(stop, str) else stop
    if (
        not isinstance(stops, list)
        or len(stops) > MAX_STOPS
        or not all(isinstance(text, str) and text for text in stops)
        or any(len(text) > 100 for text in stops)
    ):
        raise BadRequest(
            f'stop is {shown(stop)}; expected a text, or up to {MAX_STOPS} '
            'of them, of 1 to 100 characters.',
            'stop',
        )
    return [string('stop', text) for text in stops]
