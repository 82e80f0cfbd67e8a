# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Parse a request to ``/v1/chat/completions``: JSON to turns and parameters.

A parameter that would change the answer and is not supported is refused by
its name; parameters that cannot change it are ignored.
"""

import json
from dataclasses import dataclass, field
from typing import Any

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
from .request_limits import RequestLimits
from .sampling_fields import take_settings

# An empty list takes two bytes in JSON and sixty in memory. A request has
# few lists and fields, and base64 has none of these characters.
_STRUCTURE, _MAX_STRUCTURE = (b'[', b'{', b','), 300_000
# A text of 100,000 characters has at most as many; base64 has none.
_ESCAPE, _MAX_ESCAPES = b'\\u', 1_000_000
# They cannot change the answer.
IGNORED = frozenset(
    (
        'dataset',  # VLMEvalKit adds the name of its data set
        'metadata',
        'parallel_tool_calls',
        'prompt_cache_key',
        'prompt_cache_retention',
        'safety_identifier',
        'service_tier',
        'store',
        'timeout',  # of the client
        'user',
    )
)
# Parameters of OpenAI, and of clients of other servers, that are accepted
# with the value that this server has in any case.
_DEFAULT_ONLY: dict[str, Any] = {
    'frequency_penalty': 0,
    'presence_penalty': 0,
    'logit_bias': {},
    'tools': [],
    'tool_choice': 'none',
    'functions': [],
    'function_call': 'none',
    'modalities': ['text'],
    'response_format': {'type': 'text'},
    # of vLLM and LMDeploy
    'add_generation_prompt': True,
    'best_of': 1,
    'chat_template_kwargs': {},
    'continue_final_message': False,
    'echo': False,
    'ignore_eos': False,
    'include_stop_str_in_output': False,
    'min_p': 0,
    'skip_special_tokens': True,
    'stop_token_ids': [],
    'use_beam_search': False,
}


@dataclass
class ChatRequest:
    """A parsed request.

    Attributes:
        model: The requested model, or None.
        turns: The conversation; its last answer is None.
        images: URLs of the images, in their order.
        system: The system message, or None.
        settings: Sampling parameters that replace the model's own.
        choices: The number of answers.
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
    choices: int = 1
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
    if 'n' in parameters:
        request.choices = number(
            'n', parameters.pop('n'), 1, limits.choices, integer=True
        )
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
    request.settings = take_settings(parameters, limits)
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
