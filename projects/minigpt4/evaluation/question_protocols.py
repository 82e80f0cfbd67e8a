# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The protocols that ask questions, by name."""

from .aokvqa import AOKVQA, AOKVQA_DIRECT
from .pope import POPE
from .questions import QuestionProtocol
from .vqa import GQA, OKVQA, VQAV2

QUESTION_PROTOCOLS: dict[str, QuestionProtocol] = {
    protocol.name: protocol
    for protocol in (POPE, AOKVQA, AOKVQA_DIRECT, GQA, OKVQA, VQAV2)
}


def get_question_protocol(name: str) -> QuestionProtocol:
    """Return a protocol by its name.

    Raises:
        ValueError: There is none of this name.
    """
    if name not in QUESTION_PROTOCOLS:
        raise ValueError(
            f'protocol is {name!r}; expected one of '
            f'{", ".join(QUESTION_PROTOCOLS)}.'
        )
    return QUESTION_PROTOCOLS[name]
