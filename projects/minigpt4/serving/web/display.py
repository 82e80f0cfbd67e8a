# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The texts that the page displays: turns, errors, exported Markdown."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ...generation.worker import QueueFull
from ...utils.errors import one_line

_CODE = re.compile(r'(```.*?(?:```|\Z)|`[^`\n]+`)', re.DOTALL)

logger = logging.getLogger(__name__)


@dataclass
class DisplayedTurn:
    """A turn as the page displays it.

    Attributes:
        question: The question.
        files: Paths of the thumbnails of its images, JPEG files.
        thumbnails: The same thumbnails as data URLs, for the export.
        answer: The answer so far.
    """

    question: str
    files: list[str] = field(default_factory=list)
    thumbnails: list[str] = field(default_factory=list)
    answer: str = ''


def chatbot_messages(turns: Sequence[DisplayedTurn]) -> list[dict[str, Any]]:
    """The messages of Gradio's chatbot; images precede their question.

    Args:
        turns: The turns.
    """
    messages: list[dict[str, Any]] = []
    for turn in turns:
        messages += [
            dict(role='user', content={'path': file}) for file in turn.files
        ]
        if turn.question:
            messages.append(
                dict(role='user', content=escape_html(turn.question))
            )
        messages.append(
            dict(role='assistant', content=escape_html(turn.answer))
        )
    return messages


def escape_html(text: str) -> str:
    """Escape HTML in Markdown, so that it is displayed as text.

    Code between backticks is unchanged, because Markdown escapes it.

    Args:
        text: A question or an answer.
    """
    parts = _CODE.split(text)
    return ''.join(
        part if i % 2 else part.replace('&', '&amp;').replace('<', '&lt;')
        for i, part in enumerate(parts)
    )


def chat_markdown(turns: Sequence[DisplayedTurn]) -> str:
    """A chat as one Markdown text with its images.

    Args:
        turns: The turns.
    """
    blocks = ['# A chat with MiniGPT-4']
    for turn in turns:
        blocks.append('**Question:** ' + turn.question)
        for i, url in enumerate(turn.thumbnails, 1):
            blocks.append(f'![image {i}]({url})')
        blocks.append('**Answer:** ' + turn.answer.replace('\n', '  \n'))
    return '\n\n'.join(blocks) + '\n'


def error_text(error: Exception) -> str:
    """The sentence about an error; unexpected errors are logged.

    Args:
        error: The error.
    """
    if isinstance(error, QueueFull):
        return f'the server is busy: {error}'
    has_message = bool(str(error).strip())
    message = one_line(error) if has_message else 'no reason given'
    if isinstance(error, ValueError) and has_message:
        return message
    logger.error('the web page could not answer', exc_info=error)
    return f'{type(error).__name__}: {message}'
