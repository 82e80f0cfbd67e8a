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
