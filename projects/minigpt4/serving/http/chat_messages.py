# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The messages of a request: OpenAI's to turns, images and a system line."""

from typing import Any

from ...prompts.prompt import IMAGE_HERE, PromptTemplate, Turn
from .request_values import BadRequest, RequestLimits, kind_of, shown, string

MAX_MESSAGES = 1000
MAX_PARTS = 1000  # of one message
_ROLES = {'system': 'system', 'developer': 'system'}


def read_messages(
    messages: Any,
    template: PromptTemplate,
    prompt: str,
    limits: RequestLimits,
) -> tuple[list[Turn], list[str], str | None]:
    """Read the messages of a request.

    Messages of the user that follow each other are one question.

    Args:
        messages: What stands under ``messages``.
        template: The model's prompt template.
        prompt: The question of a message that has images and no text.
        limits: What they may hold.

    Returns:
        The turns, the last without an answer; the URLs of the images in
        their order; the system message, None without one.

    Raises:
        BadRequest: They are no conversation that can be answered.
    """
    turns: list[Turn] = []
    images: list[str] = []
    system: str | None = None
    if not isinstance(messages, list) or not messages:
        raise BadRequest(
            f'messages is {kind_of(messages)}; expected a list that ends with '
            'a message of the user.',
            'messages',
        )
    if len(messages) > MAX_MESSAGES:
        raise BadRequest(
            f'there are {len(messages)} messages; at most {MAX_MESSAGES} '
            'are allowed.',
            'messages',
        )
    questions: list[str] = []  # messages of the user that wait for an answer
    characters = 0
    for i, message in enumerate(messages):
        where = f'messages[{i}]'
        role = _role(message, where)
        content = message.get('content')
        if content is None and role == 'assistant':
            content = ''  # an answer without a text
        parts = _parts(content, where)
        texts = [text for kind, text in parts if kind == 'text']
        shown_here = [url for kind, url in parts if kind == 'image']
        characters += sum(map(len, texts))
        if characters > limits.text:
            raise BadRequest(
                f'the messages have more than {limits.text:,} characters, '
                'which no context of this model holds; shorten them.',
                where,
                'context_length_exceeded',
            )
        if shown_here and role != 'user':
            raise BadRequest(
                f'{where} is a message of {role} with an image; images '
                'stand in messages of the user.',
                where,
            )
        images += shown_here
        if len(images) > limits.images:
            raise BadRequest(
                f'the messages have more than {limits.images} images; leave '
                'some out.',
                where,
            )
        if role == 'user':
            questions.append(_question(parts, template, prompt, where))
        elif role == 'assistant' and questions:
            turns.append(Turn('\n'.join(questions), ''.join(texts)))
            questions = []
        elif role == 'system' and i == 0:
            system = '\n'.join(texts)
        else:
            raise BadRequest(
                f'{where} is a message of {role}, which cannot stand there; '
                'expected one of system at most, first, then user and '
                'assistant in turn.',
                where,
            )
    if not questions:
        raise BadRequest(
            'the last message is not of the user; there is nothing to answer.',
            'messages',
        )
    turns.append(Turn('\n'.join(questions)))
    return turns, images, system


def _role(message: Any, where: str) -> str:
    """The role of a message whose fields are all known."""
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
            f'{where}.role is {shown(role)}; expected system, user or '
            'assistant.',
            f'{where}.role',
        )
    for name, value in message.items():
        if name == 'name':  # of who writes; no template has it
            string(f'{where}.name', value or '')
        elif name not in ('role', 'content') and value not in (None, []):
            raise BadRequest(
                f'{where} has {shown(name)}, which is not supported; leave '
                'it out.',
                where,
                'unsupported_parameter',
            )
    return _ROLES.get(role, role)


def _parts(content: Any, where: str) -> list[tuple[str, str]]:
    """The content of a message as ('text' or 'image', text or URL)."""
    where += '.content'
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
    parts = []
    for i, part in enumerate(content):
        here = f'{where}[{i}]'
        kind = part.get('type') if isinstance(part, dict) else None
        if kind == 'text':
            text = string(f'{here}.text', part.get('text'))
            if IMAGE_HERE in text:
                raise BadRequest(
                    f'{here}.text holds {IMAGE_HERE}, by which images are '
                    'placed inside; write it otherwise.',
                    here,
                )
            parts.append(('text', text))
        elif kind == 'image_url':
            image = part.get('image_url')
            if not isinstance(image, dict):
                raise BadRequest(
                    f'{here}.image_url is {kind_of(image)}; expected an '
                    'object with a url.',
                    f'{here}.image_url',
                )
            url = string(f'{here}.image_url.url', image.get('url'))
            parts.append(('image', url))
        else:
            raise BadRequest(
                f'{here} is no part that is read here (type {shown(kind)}); '
                'expected type text or image_url.',
                here,
            )
    return parts


def _question(
    parts: list[tuple[str, str]],
    template: PromptTemplate,
    prompt: str,
    where: str,
) -> str:
    """A message of the user as one question.

    Images stand where the message has them; without text behind one they
    stand in front, as in training.
    """
    parts = [part for part in parts if part != ('text', '')]
    if not any(kind == 'text' for kind, _ in parts):
        if not parts:
            raise BadRequest(
                f'{where} is empty; ask something.', f'{where}.content'
            )
        parts.append(('text', prompt))
    elif parts[-1][0] == 'image':
        parts.sort(key=lambda part: part[0])  # 'image' before 'text'
    pieces = [IMAGE_HERE if kind == 'image' else text for kind, text in parts]
    return ('' if template.image == IMAGE_HERE else ' ').join(pieces)
