# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Prompts: from a conversation to token ids with image slots."""

from ..deprecated import renamed
from .chat_template import ChatTemplate
from .conversation import (
    Segment,
    Turn,
    answer_segment,
    render,
    render_chat,
    with_images,
)
from .frame import IMAGE_HERE, Frame, Template
from .templates import TEMPLATES, PromptTemplate, get_template
from .tokenization import IMAGE_SLOT, TokenizedPrompt, tokenize

__all__ = [
    'ChatTemplate',
    'Frame',
    'IMAGE_HERE',
    'IMAGE_SLOT',
    'PromptTemplate',
    'Segment',
    'TEMPLATES',
    'Template',
    'TokenizedPrompt',
    'Turn',
    'answer_segment',
    'get_template',
    'render',
    'render_chat',
    'tokenize',
    'with_images',
]

__getattr__ = renamed(__name__, {'Row': 'TokenizedPrompt'})
