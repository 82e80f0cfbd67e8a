# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Check the values of the page's events before Gradio receives them.

Gradio logs a traceback for each value that its components refuse, so any
client could fill the log.
"""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from ...prompts.text_validation import check_characters

Check = Callable[[Any], None]
_FILE_FIELDS = dict(
    path=str, url=str, size=int, orig_name=str, mime_type=str, is_stream=bool
)  # fmt: skip
_MAX_SIZE = 2**53  # the largest integer of JavaScript


@dataclass(frozen=True)
class EventCheck:
    """Checks the values of one event.

    Attributes:
        inputs: One check per input.
        num_choices: Items of a gallery from which the event selects one;
            None for another event.
    """

    inputs: tuple[Check, ...] = ()
    num_choices: int | None = None

    def __call__(self, data: Any, event_data: Any) -> None:
        """Check an event.

        Args:
            data: Values of its inputs.
            event_data: Details of the event.

        Raises:
            ValueError: A value is not one that the page sends.
        """
        if not isinstance(data, list) or len(data) != len(self.inputs):
            raise ValueError(
                f'data is not a list of {len(self.inputs)} values.'
            )
        for check, value in zip(self.inputs, data):
            check(value)
        if self.num_choices is None:
            return
        details = event_data if isinstance(event_data, dict) else {}
        index = details.get('index')
        if (
            type(index) is not int
            or not 0 <= index < self.num_choices
            or 'value' not in details
        ):
            raise ValueError('event_data does not select an example.')


def event_checks(page: Any) -> dict[int, EventCheck]:
    """The checks of the events of a page, by their numbers.

    Args:
        page: The page, a ``gradio.Blocks``.
    """
    checks = {}
    for index, function in page.fns.items():
        num_choices = None
        for component_id, event in function.targets:
            if event == 'select':
                num_choices = len(page.blocks[component_id].value)
        inputs = tuple(map(_input_check, function.inputs))
        checks[index] = EventCheck(inputs, num_choices)
    return checks


def _input_check(component: Any) -> Check:
    """The check of the values of one component."""
    kind = component.get_block_name()
    if kind == 'state':
        return accept
    if kind == 'multimodaltextbox':
        return check_message
    if kind == 'radio':
        return check_choice({value for _, value in component.choices})
    if kind == 'slider':
        return check_number(
            component.label, component.minimum, component.maximum
        )
    if kind == 'number':
        return check_number(component.label, -math.inf, math.inf, True)
    raise TypeError(f'the component {kind} has no check')


def accept(value: Any) -> None:
    """Accept any value; Gradio replaces it by the session."""


def check_message(value: Any) -> None:
    """Check the text and the files of the question box.

    Args:
        value: The value.

    Raises:
        ValueError: It is not a text with a list of files.
    """
    files = value.get('files') if isinstance(value, dict) else None
    if not isinstance(files, list) or not isinstance(value.get('text'), str):
        raise ValueError('the question is not a text with a list of files.')
    check_characters(value['text'], 'the question')
    for file in files:
        if not (
            isinstance(file, dict)
            and isinstance(file.get('path'), str)
            and isinstance(file.get('meta'), dict)
            and file['meta'].get('_type') == 'gradio.FileData'
            and all(
                file.get(name) is None or type(file[name]) is kind
                for name, kind in _FILE_FIELDS.items()
            )
        ):
            raise ValueError('a file of the question is malformed.')


def check_choice(choices: Collection[str]) -> Check:
    """A check that a value is one of some texts.

    Args:
        choices: The texts.
    """

    def check(value: Any) -> None:
        if not isinstance(value, str) or value not in choices:
            raise ValueError(
                f'a choice is unknown; expected one of {", ".join(choices)}.'
            )

    return check


def check_number(
    name: str, low: float, high: float, optional: bool = False
) -> Check:
    """A check that a value is a number within bounds.

    Args:
        name: Name of the number, for the message.
        low: The lowest number.
        high: The highest number.
        optional: Whether it may be missing.
    """

    def check(value: Any) -> None:
        if value is None and optional:
            return
        if (
            not isinstance(value, (int, float))
            or isinstance(value, bool)
            or not low <= value <= high  # false for NaN
            or abs(value) > _MAX_SIZE
        ):
            raise ValueError(
                f'{name} is out of range; expected a number'
                + (f' from {low} to {high}.' if math.isfinite(low) else '.')
            )

    return check
