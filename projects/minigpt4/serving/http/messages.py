# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Convert OpenAI's messages to turns, image URLs and a system message."""

from typing import Any, Literal, NamedTuple

from ...prompts import IMAGE_HERE, Template, Turn
from .errors import BadRequest, format_value, kind_of
from .json_values import string

MAX_MESSAGES = 1000
MAX_PARTS = 1000  # of one message
_ROLES = {'system': 'system', 'developer': 'system'}


class ContentPart(NamedTuple):
    """A part of a message: its type, and its text or image URL."""

    type: Literal['text', 'image']
    value: str


def read_messages(
    messages: Any,
    template: Template,
    default_question: str,
    max_images: int,
    max_characters: int,
) -> tuple[list[Turn], list[str], str | None]:
    """Convert the messages of a request.

    Consecutive user messages are one question.

    Args:
        messages: The JSON value of ``messages``.
        template: The model's prompt template.
        default_question: The question of a message with images and no text.
        max_images: The maximum number of images of all messages.
        max_characters: The maximum number of characters of all messages.

    Returns:
        The turns, the last without an answer; the image URLs in their order;
        the system message, or None.

    Raises:
        BadRequest: The messages are not a conversation with a last question.
    """
    turns: list[Turn] = []
    images: list[str] = []
    system: str | None = None
    if not isinstance(messages, list) or not messages:
        raise BadRequest(
            f'messages is {kind_of(messages)}; expected a list that ends with '
            'a user message.',
            'messages',
        )
    if len(messages) > MAX_MESSAGES:
        raise BadRequest(
            f'there are {len(messages)} messages; at most {MAX_MESSAGES} '
            'are allowed.',
            'messages',
        )
    questions: list[str] = []  # user messages without an answer yet
    characters = 0
    for i, message in enumerate(messages):
        where = f'messages[{i}]'
        role = _check_message(message, where)
        content = message.get('content')
        if content is None and role != 'user':
            if role == 'system' and i == 0:
                continue  # as if it were omitted
            content = ''  # an answer without text
        parts = _read_content(content, f'{where}.content')
        texts = [part.value for part in parts if part.type == 'text']
        urls = [part.value for part in parts if part.type == 'image']
        characters += sum(map(len, texts))
        if characters > max_characters:
            raise BadRequest(
                f'the messages have more than {max_characters:,} characters, '
                'which exceeds the context of this model; shorten them.',
                where,
                'context_length_exceeded',
            )
        if urls and role != 'user':
            raise BadRequest(
                f'{where} is a message of {role} with an image; put images '
                'into user messages.',
                where,
            )
        images += urls
        if len(images) > max_images:
            raise BadRequest(
                f'the messages have more than {max_images} images; send '
                'fewer.',
                where,
            )
        if role == 'user':
            questions.append(
                _question(parts, template, default_question, where)
            )
        elif role == 'assistant' and questions:
            turns.append(Turn('\n'.join(questions), ''.join(texts)))
            questions = []
        elif role == 'system' and i == 0:
            system = '\n'.join(texts)
        else:
            raise BadRequest(
                f'{where} is a message of {role}, which is not allowed at '
                'this position; expected at most one of system, first, then '
                'user and assistant in turn.',
                where,
            )
    if not questions:
        raise BadRequest(
            'the last message is not of user; there is nothing to answer.',
            'messages',
        )
    turns.append(Turn('\n'.join(questions)))
    return turns, images, system


def _check_message(message: Any, where: str) -> str:
    """Check the fields of a message except its content; returns its role."""
    if not isinstance(message, dict):
        raise BadRequest(
            f'{where} is {kind_of(message)}; expected an object with role and '
            'content.',
            where,
        )
    role = message.get('role')
    if not isinstance(role, str) or role not in (
        *_ROLES,
        'user',
        'assistant',
    ):
        raise BadRequest(
            f'{where}.role is {format_value(role)}; expected system, user or '
            'assistant.',
            f'{where}.role',
        )
    for name, value in message.items():
        if name == 'name':  # of the author; no template uses it
            string(f'{where}.name', value or '')
        elif name not in ('role', 'content') and value not in (None, []):
            raise BadRequest(
                f'{where} has {format_value(name)}, which is not supported; '
                'omit it.',
                where,
                'unsupported_parameter',
            )
    return _ROLES.get(role, role)


def _read_content(content: Any, where: str) -> list[ContentPart]:
    """Convert the content of a message to its parts."""
    if isinstance(content, str):
        content = [{'type': 'text', 'text': content}]
    if not isinstance(content, list):
        raise BadRequest(
            f'{where} is {kind_of(content)}; expected a text, or a list of '
            'parts.',
            where,
        )
    if len(content) > MAX_PARTS:
        raise BadRequest(
            f'{where} has {len(content)} parts; at most {MAX_PARTS} are '
            'allowed.',
            where,
        )
    return [
        _read_part(part, f'{where}[{i}]') for i, part in enumerate(content)
    ]


def _read_part(part: Any, where: str) -> ContentPart:
    """Convert one part of a message."""
    kind = part.get('type') if isinstance(part, dict) else None
    if kind == 'text':
        text = string(f'{where}.text', part.get('text'))
        if IMAGE_HERE in text:
            raise BadRequest(
                f'{where}.text holds {IMAGE_HERE}, which marks image slots '
                'in a prompt; write it differently.',
                where,
            )
        return ContentPart('text', text)
    if kind == 'image_url':
        image = part.get('image_url')
        if isinstance(image, str):  # some clients omit the object
            image = {'url': image}
        if not isinstance(image, dict):
            raise BadRequest(
                f'{where}.image_url is {kind_of(image)}; expected an object '
                'with a url.',
                f'{where}.image_url',
            )
        url = string(f'{where}.image_url.url', image.get('url'))
        return ContentPart('image', url)
    raise BadRequest(
        f'{where} is not a supported part (type {format_value(kind)}); '
        'expected type text or image_url.',
        where,
    )


def _question(
    parts: list[ContentPart],
    template: Template,
    default_question: str,
    where: str,
) -> str:
    """Render a user message as one question.

    An image slot is located where the message has the image; images without
    text after them are moved to the front, as in training.
    """
    parts = [part for part in parts if part != ('text', '')]
    if not any(part.type == 'text' for part in parts):
        if not parts:
            raise BadRequest(
                f'{where} is empty; ask something.', f'{where}.content'
            )
        parts.append(ContentPart('text', default_question))
    elif parts[-1].type == 'image':
        parts.sort(key=lambda part: part.type)  # 'image' before 'text'
    pieces = [
        IMAGE_HERE if part.type == 'image' else part.value for part in parts
    ]
    return ('' if template.image == IMAGE_HERE else ' ').join(pieces)
