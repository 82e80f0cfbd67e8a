# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Prompts: from a conversation to token ids with image slots."""

from ..deprecated import renamed
from .prompt import (
    IMAGE_HERE,
    IMAGE_SLOT,
    TEMPLATES,
    PromptTemplate,
    Segment,
    TokenizedPrompt,
    Turn,
    answer_segment,
    get_template,
    render,
    render_chat,
    tokenize,
    with_images,
)

__all__ = [
    'IMAGE_HERE',
    'IMAGE_SLOT',
    'PromptTemplate',
    'TokenizedPrompt',
    'Segment',
    'TEMPLATES',
    'Turn',
    'answer_segment',
    'get_template',
    'render',
    'render_chat',
    'tokenize',
    'with_images',
]

__getattr__ = renamed(__name__, {'Row': 'TokenizedPrompt'})
