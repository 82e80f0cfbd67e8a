# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Documents of lmms-eval's tasks to turns with images.

A document of a simple task is a text and a list of images; that of a chat
task is a list of messages.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from ..prompts import IMAGE_HERE, Template, Turn, with_images
from ..utils.errors import short_json

# how other models' prompts, and so some tasks, mark an image
_PLACEHOLDER = '<image>'
_ROLES = ('system', 'user', 'assistant')
_PARTS = ('text', 'image')


@dataclass
class Question:
    """A conversation that ends with a question.

    Attributes:
        turns: The turns; the answer of the last is None.
        images: Its images in the order of their slots: paths or Pillow
            images.
        system: The system message; None for that of the model.
    """

    turns: list[Turn]
    images: list[Any] = field(default_factory=list)
    system: str | None = None


def question_of_context(context: str, visuals: Any) -> Question:
    """Convert the context and the images of a simple task.

    The images are placed before the text, or where it has ``<image>``, if it
    has one of them for each image.

    Args:
        context: The text.
        visuals: A list of images, or None.

    Raises:
        ValueError: A visual is not an image, or the text has a reserved
            marker.
    """
    images = [_image(visual, 'doc_to_visual') for visual in _flat(visuals)]
    _check_text(context)
    if images and context.count(_PLACEHOLDER) == len(images):
        context = context.replace(_PLACEHOLDER, IMAGE_HERE)
    return Question([Turn(context)], images)


def question_of_messages(messages: Any, template: Template) -> Question:
    """Convert the messages of a chat task.

    Consecutive messages of one role are one text, joined by line breaks.
    Images without text after them move to the front of their message, as in
    training.

    Args:
        messages: A list of ``{role, content}``. A content is a text or a list
            of ``{type: text, text}`` and ``{type: image, url}``.
        template: The prompt template, which wraps image slots.

    Raises:
        ValueError: The messages are not a conversation with a last question,
            or contain something other than text and images.
    """
    if not isinstance(messages, Sequence) or not messages:
        raise ValueError(
            f'doc_to_messages gave {short_json(messages)}; expected a list of '
            'messages that ends with one of user.'
        )
    turns: list[Turn] = []
    images: list[Any] = []
    system: list[str] = []
    questions: list[str] = []
    for number, message in enumerate(messages, 1):
        where = f'message {number} of {len(messages)}'
        role, parts = _read_message(message, where)
        if role != 'user' and any(kind == 'image' for kind, _ in parts):
            raise ValueError(
                f'{where} is one of {role} with an image; images belong to '
                'messages of user.'
            )
        texts = ''.join(value for kind, value in parts if kind == 'text')
        if role == 'user':
            images += [value for kind, value in parts if kind == 'image']
            questions.append(_question_text(parts, template))
        elif role == 'assistant' and questions:
            turns.append(Turn('\n'.join(questions), texts))
            questions = []
        elif role == 'assistant' and turns:
            last = turns[-1]
            answer = f'{last.answer}\n{texts}'
            turns[-1] = Turn(last.question, answer)
        elif role == 'system' and not (turns or questions):
            system.append(texts)
        else:
            raise ValueError(
                f'{where} is one of {role}, which cannot be there; expected '
                'system first, then user and assistant in turn.'
            )
    if not questions:
        raise ValueError(
            'the last message is not of user, so there is no question; remove '
            'the answer behind it.'
        )
    turns.append(Turn('\n'.join(questions)))
    if len(turns) == len(questions) == 1 and _begins_with_images(parts):
        turns = [Turn(texts)]  # the same prompt as that of a simple task
    return Question(turns, images, '\n'.join(system) if system else None)


def with_history(
    earlier: Sequence[tuple[Question, str]],
    question: Question,
    template: Template,
) -> Question:
    """Return a question behind earlier questions and their answers.

    Args:
        earlier: The questions so far, with their answers.
        question: The next one.
        template: The prompt template, which wraps image slots.
    """
    turns: list[Turn] = []
    images: list[Any] = []
    system = question.system
    for before, answer in earlier:
        *others, last = _with_slots(before, template)
        turns += [*others, Turn(last.question, answer)]
        images += before.images
        system = before.system if system is None else system
    turns += _with_slots(question, template)
    return Question(turns, images + question.images, system)


def _with_slots(question: Question, template: Template) -> list[Turn]:
    """The turns, with the slots of images that have none.

    With several questions it must be written to which one an image belongs.
    """
    first, *others = question.turns
    if any(IMAGE_HERE in turn.question for turn in question.turns):
        return question.turns
    text = with_images(first.question, len(question.images), template)
    return [Turn(text, first.answer), *others]


def _read_message(
    message: Any, where: str
) -> tuple[str, list[tuple[str, Any]]]:
    """The role of a message, and the kinds and values of its parts."""
    if not isinstance(message, Mapping) or message.get('role') not in _ROLES:
        raise ValueError(
            f'{where} is {short_json(message)}; expected an object with a '
            f'role ({", ".join(_ROLES)}) and a content.'
        )
    content = message.get('content')
    if isinstance(content, str):
        content = [{'type': 'text', 'text': content}]
    if not isinstance(content, Sequence):
        raise ValueError(
            f'the content of {where} is {short_json(content)}; expected a '
            'text or a list of parts.'
        )
    parts: list[tuple[str, Any]] = []
    for part in content:
        kind = part.get('type') if isinstance(part, Mapping) else None
        if kind not in _PARTS:
            raise ValueError(
                f'{where} has a part of type {short_json(kind)}; this model '
                f'takes {" and ".join(_PARTS)} only.'
            )
        if kind == 'image':
            parts.append((kind, _image(part.get('url'), where)))
            continue
        text = part.get('text')
        if not isinstance(text, str):
            raise ValueError(
                f'a text of {where} is {short_json(text)}; expected a text.'
            )
        _check_text(text)
        if text:
            parts.append((kind, text))
    return message['role'], parts


def _begins_with_images(parts: Sequence[tuple[str, Any]]) -> bool:
    """Whether all images are before, or all of them behind the texts."""
    kinds = [kind for kind, _ in parts]
    return kinds in (sorted(kinds), sorted(kinds, reverse=True))


def _question_text(
    parts: Sequence[tuple[str, Any]], template: Template
) -> str:
    """The text of a message of user, with its image slots.

    As with images that are placed before a question, a space is between a
    slot that the template wraps and the text behind it.
    """
    if parts and parts[-1][0] == 'image':
        parts = sorted(parts, key=lambda part: part[0])  # images before texts
    space = '' if template.image == IMAGE_HERE else ' '
    text = ''
    for kind, value in parts:
        if kind == 'image':
            text += template.image
        elif text.endswith(template.image) and not value[0].isspace():
            text += space + value
        else:
            text += value
    return text


def _check_text(text: str) -> None:
    if IMAGE_HERE in text:
        raise ValueError(
            f'the text holds {IMAGE_HERE}, which marks image slots in a '
            'prompt; write it differently.'
        )


def _flat(visuals: Any) -> list[Any]:
    """The images of a document as one list."""
    if visuals is None:
        return []
    if not isinstance(visuals, list | tuple):
        return [visuals]
    return [image for item in visuals for image in _flat(item)]


def _image(visual: Any, where: str) -> Any:
    """Refuse what is not an image, such as a video."""
    if isinstance(visual, Image.Image | bytes):
        return visual
    if isinstance(visual, str) and visual:
        return visual
    raise ValueError(
        f'{where} gave a {type(visual).__name__}; expected images, as Pillow '
        'images or paths. This model takes no video and no sound.'
    )
