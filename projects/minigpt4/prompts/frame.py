# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""What all prompt templates have in common: the text around each turn."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

IMAGE_HERE = '<ImageHere>'  # the text of an image slot in a question

# characters that str.strip removes at the start and at the end of a text;
# None is all white space, '' is none
Strip = tuple[str | None, str | None]


class Frame(NamedTuple):
    """The text of a template around one turn.

    Attributes:
        opening: Texts before the question, each with whether the template
            wrote it; else it is a system message.
        before_answer: Text between question and answer; never supervised.
        lead: Text between ``before_answer`` and the answer that is
            supervised with the answer, because the LLM generates it.
        end: End symbol of the answer, supervised with it.
        strip_question: White space that the template removes from questions.
        strip_answer: White space that the template removes from answers.
    """

    opening: Sequence[tuple[str, bool]]
    before_answer: str
    lead: str
    end: str
    strip_question: Strip = ('', '')
    strip_answer: Strip = ('', '')


class Template(Protocol):
    """What rendering and generation need of a prompt template.

    :class:`PromptTemplate` is one with fixed texts,
    :class:`~minigpt4.prompts.chat_template.ChatTemplate` one of a tokenizer.
    """

    @property
    def name(self) -> str:
        """Name in configs and checkpoints."""

    @property
    def image(self) -> str:
        """Text of an image slot with its wrapping."""

    @property
    def end(self) -> str:
        """End symbol of an answer."""

    @property
    def stop(self) -> tuple[str, ...]:
        """Stop strings of generation."""

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Ids of tokens that end an answer and are not in its text."""

    @property
    def system(self) -> str:
        """System message of a chat without one."""

    @property
    def writes_special_tokens(self) -> bool:
        """Whether the template writes the special tokens of a whole prompt.

        Then no BOS is added, and a text between image slots or answers is
        encoded as in one text with what precedes it. The texts of other
        templates are encoded one by one, as in the official code.
        """

    def frames(
        self, num_turns: int, system: str | None = None, chat: bool = False
    ) -> list[Frame]:
        """Return the text around each turn of a conversation.

        Args:
            num_turns: Number of turns.
            system: System message; None for that of the template, '' for
                none.
            chat: Whether it is a chat, not a training sample or a caption.
        """


def strip_text(text: str, characters: Strip) -> str:
    """Remove white space from the start and from the end of a text.

    Args:
        text: The text.
        characters: What is removed on each side.
    """
    left, right = characters
    text = text if left == '' else text.lstrip(left)
    return text if right == '' else text.rstrip(right)
