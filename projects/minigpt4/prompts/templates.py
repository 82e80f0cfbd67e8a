# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Prompt templates: the text that an LLM expects around a conversation.

To add a fixed template, add a :class:`PromptTemplate` to ``TEMPLATES``; its
name can then be used in configs. The template ``'chat'`` is made from the
tokenizer of the LLM; see :mod:`~minigpt4.prompts.chat_template`.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from .chat_template import CHAT, ChatTemplate
from .frame import IMAGE_HERE, Frame, Template


@dataclass(frozen=True)
class PromptTemplate:
    """The text around the questions and answers of a conversation.

    Attributes:
        name: Name in configs and checkpoints.
        first: Text before the first question.
        later: Text before a later question, after the end symbol of the
            previous answer.
        answer: Text between a question and its answer.
        end: End symbol, which follows every answer and is trained with it.
        stop: Stop strings of generation.
        image: Text of an image slot with its wrapping; contains
            ``<ImageHere>`` once.
        system: System message at the start of a chat; not used in training.
        chat_answer: Text between a question and its answer in a chat; None
            for the same as ``answer``.
    """

    name: str
    first: str
    later: str
    answer: str
    end: str
    stop: tuple[str, ...]
    image: str = f'<Img>{IMAGE_HERE}</Img>'
    system: str = ''
    chat_answer: str | None = None

    writes_special_tokens: ClassVar[bool] = False
    stop_ids: ClassVar[tuple[int, ...]] = ()

    def frames(
        self, num_turns: int, system: str | None = None, chat: bool = False
    ) -> list[Frame]:
        """Return the text around each turn; see :class:`Template`.

        Only a chat has a system message. With one the first question of
        LLaMA-2 begins with ``<s>`` like its later ones, as in the official
        demo; BOS is added before the system message.
        """
        if not chat:
            system = ''
        elif system is None:
            system = self.system
        elif self.system.endswith(self.end):
            system = system and system.removesuffix(self.end) + self.end
        before_answer = self.answer
        if chat and self.chat_answer is not None:
            before_answer = self.chat_answer
        first = self.later if system else self.first
        return [
            Frame(
                ((self.later, True),)
                if i
                else ((system, False), (first, True)),
                before_answer,
                '',
                self.end,
            )
            for i in range(num_turns)
        ]


_SYSTEM = (
    'Give the following image: <Img>ImageContent</Img>. You will be '
    'able to see the image once I provide it to you. Please answer my '
    'questions.'
)

TEMPLATES = {
    template.name: template
    for template in (
        # stage 1 has no question (the official configs have an empty
        # prompt_path); the caption ends with a newline
        PromptTemplate(
            'bare', '', '', '', end='\n', stop=('\n',), image=IMAGE_HERE
        ),
        PromptTemplate(
            'vicuna_v0',
            '###Human: ',
            'Human: ',
            ' ###Assistant: ',
            end='###',
            stop=('###',),
            system=_SYSTEM + '###',
            # no space before it, unlike stage 2: official conversation.py
            chat_answer='###Assistant: ',
        ),
        PromptTemplate(
            'llama2',
            '[INST] ',
            '<s>[INST] ',
            ' [/INST] ',
            end='</s>',
            stop=('</s>', '[INST]'),
            system=_SYSTEM,
        ),
    )
}


def get_template(name: 'str | Template', tokenizer: Any = None) -> Template:
    """Return the template of a name; a template is returned unchanged.

    Args:
        name: A name of ``TEMPLATES``, or ``'chat'`` for the template of the
            tokenizer.
        tokenizer: The LLM's tokenizer, for ``'chat'``; None where no text
            will be rendered.

    Raises:
        ValueError: No template has this name, or the tokenizer has no chat
            template that can be used.
    """
    if not isinstance(name, str):
        return name
    if name == CHAT:
        return ChatTemplate(tokenizer)
    if name not in TEMPLATES:
        raise ValueError(
            f'unknown prompt template {name!r}; expected one of '
            f'{", ".join(TEMPLATES)}, {CHAT}.'
        )
    return TEMPLATES[name]
