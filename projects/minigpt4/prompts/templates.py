# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Prompt templates: the text that an LLM expects around a conversation.

To add a template, add a :class:`PromptTemplate` to ``TEMPLATES``; its name
can then be used in configs. A template that is computed, e.g. from the chat
template of a tokenizer, is a function here that returns a
:class:`PromptTemplate`; everything that takes a name takes the object too.
"""

from dataclasses import dataclass

IMAGE_HERE = '<ImageHere>'  # the text of an image slot in a question


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


def get_template(name: 'str | PromptTemplate') -> PromptTemplate:
    """Return the template of a name; a template is returned unchanged.

    Raises:
        ValueError: No template has this name.
    """
    if isinstance(name, PromptTemplate):
        return name
    if name not in TEMPLATES:
        raise ValueError(
            f'unknown prompt template {name!r}; expected one of '
            f'{", ".join(TEMPLATES)}.'
        )
    return TEMPLATES[name]
