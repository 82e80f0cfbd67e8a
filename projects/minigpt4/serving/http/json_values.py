# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Check single JSON values of a request.

Own checks rather than pydantic models: every error is one sentence with the
field, the value and its range, which depends on the operator's limits.
pydantic reports one bound, an error for each branch of a union, refuses 64.0
as a strict integer, and accepts lone surrogates.
"""

from typing import Any

from ...prompts.text_validation import check_characters
from .errors import BadRequest, format_value, kind_of


def number(
    name: str, value: Any, low: float, high: float, integer: bool = False
) -> Any:
    """Check a number; an integer may be written as 64.0.

    Raises:
        BadRequest: It is not a number from ``low`` to ``high``.
    """
    types = (int,) if integer else (int, float)
    if isinstance(value, float) and integer and value.is_integer():
        value = int(value)
    if (
        isinstance(value, bool)
        or not isinstance(value, types)
        or not low <= value <= high  # false for nan
    ):
        raise BadRequest(
            f'{name} is {format_value(value)}; expected a '
            f'{"whole " if integer else ""}number from {low} to {high}.',
            name,
        )
    return value if integer else float(value)


def boolean(name: str, value: Any) -> bool:
    """Check a boolean.

    Raises:
        BadRequest: It is neither true nor false.
    """
    if not isinstance(value, bool):
        raise BadRequest(
            f'{name} is {format_value(value)}; expected true or false.', name
        )
    return value


def string(name: str, value: Any) -> str:
    """Check a string without lone surrogates.

    Raises:
        BadRequest: It is not a string, or has half a character.
    """
    if not isinstance(value, str):
        raise BadRequest(f'{name} is {kind_of(value)}; expected a text.', name)
    try:
        check_characters(value, name)
    except ValueError as error:
        raise BadRequest(str(error), name) from error
    return value
