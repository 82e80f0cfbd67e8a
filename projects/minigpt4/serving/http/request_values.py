# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Single values of a request's JSON: checked, or refused in a sentence."""

import json
from dataclasses import dataclass
from typing import Any

from ...prompts.text_checks import check_characters


class BadRequest(ValueError):
    """A request that cannot be answered; its text says why.

    Attributes:
        param: The field that is at fault.
        code: OpenAI's word for the fault, if it has one.
    """

    def __init__(
        self, message: str, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


@dataclass(frozen=True)
class RequestLimits:
    """What one request may ask for.

    Attributes:
        body: The most bytes of its body.
        images: The most images of its conversation.
        max_tokens: The most tokens of an answer.
        beams: The most beams; everybody waits while they are searched.
        text: The most characters of its messages.
        seconds: The longest that it may take, waiting included.
        client_requests: The most requests of one client that are answered or
            wait at once; 0 for no limit.
    """

    body: int = 64 * 2**20
    images: int = 8
    max_tokens: int = 2048
    beams: int = 1
    text: int = 100_000
    seconds: float = 600.0
    client_requests: int = 0


def number(
    name: str, value: Any, low: float, high: float, whole: bool = False
) -> Any:
    """An int or a float within bounds; a whole one may come as 64.0."""
    kinds = (int,) if whole else (int, float)
    if isinstance(value, float) and whole and value.is_integer():
        value = int(value)
    if (
        isinstance(value, bool)
        or not isinstance(value, kinds)
        or not low <= value <= high  # nan is not
    ):
        raise BadRequest(
            f'{name} is {shown(value)}; expected a '
            f'{"whole " if whole else ""}number from {low} to {high}.',
            name,
        )
    return value if whole else float(value)


def boolean(name: str, value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise BadRequest(
            f'{name} is {shown(value)}; expected true or false.', name
        )
    return value


def string(name: str, value: Any) -> str:
    """A text of whole characters."""
    if not isinstance(value, str):
        raise BadRequest(f'{name} is {kind_of(value)}; expected a text.', name)
    try:
        check_characters(value, name)
    except ValueError as error:
        raise BadRequest(str(error), name) from error
    return value


def kind_of(value: Any) -> str:
    """What a JSON value is, for an error."""
    kinds: dict[type, str] = {
        type(None): 'missing',
        dict: 'an object',
        list: 'a list' if value else 'an empty list',
        str: 'a text',
        bool: 'true or false',
    }
    return kinds.get(type(value), 'a number')


def shown(value: Any) -> str:
    """A value of the request as an error may show it: short, in ASCII."""
    if isinstance(value, Exception):
        return ascii_of(str(value))[:100]
    if isinstance(value, (dict, list)):
        return kind_of(value)
    if isinstance(value, int) and abs(value) > 2**64:
        return 'a huge number'
    if isinstance(value, str):
        value = value[:60]
    return json.dumps(value)


def ascii_of(text: str) -> str:
    """A text that any answer and any line of a log can hold."""
    return ascii(text[:100])[1:-1]
