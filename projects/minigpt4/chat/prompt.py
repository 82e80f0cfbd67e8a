# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The prompt of a conversation, cut so that the answer fits the context."""

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from ..deprecated import renamed, warn_renamed
from ..generation.sampling_params import SamplingParams
from ..images.read import load_image
from ..models import MiniGPT4
from ..prompts import (
    IMAGE_HERE,
    Template,
    TokenizedPrompt,
    Turn,
    render_chat,
    tokenize,
    with_images,
)
from ..prompts.image_slots import check_image_slots
from ..prompts.text_validation import check_text


@dataclass
class ChatPrompt:
    """The prompt of a conversation, ready for ``Engine.submit``.

    Attributes:
        tokenized: The token ids, with one image slot per image.
        images: ``(3, H, W)`` uint8, one for each image slot.
        num_tokens: Tokens of the prompt, those of its images included.
        num_dropped: Turns that were dropped because they exceed the context.
        notice: A sentence about the dropped turns, or None.
    """

    tokenized: TokenizedPrompt
    images: list[Tensor]
    num_tokens: int
    num_dropped: int = 0
    notice: str | None = None

    @property
    def row(self) -> TokenizedPrompt:
        """Deprecated name of ``tokenized``."""
        warn_renamed('ChatPrompt.row', 'ChatPrompt.tokenized')
        return self.tokenized

    @property
    def tokens(self) -> int:
        """Deprecated name of ``num_tokens``."""
        warn_renamed('ChatPrompt.tokens', 'ChatPrompt.num_tokens')
        return self.num_tokens

    @property
    def dropped(self) -> int:
        """Deprecated name of ``num_dropped``."""
        warn_renamed('ChatPrompt.dropped', 'ChatPrompt.num_dropped')
        return self.num_dropped


class ContextLengthError(ValueError):
    """The last question and its answer exceed the context of the LLM."""


def build_prompt(
    model: MiniGPT4,
    turns: Sequence[Turn],
    images: Sequence,
    system: str | None = None,
    max_context: int | None = None,
    max_new_tokens: int | None = None,
) -> ChatPrompt:
    """Build a prompt that leaves room for the answer in the context.

    If the conversation is too long, its oldest turns are dropped. The
    beginning-of-text token, the system line and the images are never
    dropped: images of dropped turns move in front of the first remaining
    question.

    Args:
        model: The model.
        turns: The turns; the answer of the last one is None. Each
            ``<ImageHere>`` in a question is the slot of one image; without
            any slot the images are placed in front of the first question.
        images: Anything that :func:`~minigpt4.images.read.read_image` reads,
            or ``(3, H, W)`` uint8 tensors, in the order of the slots.
        system: The system line. None uses the model's; '' omits it.
        max_context: The most tokens of prompt and answer together. None uses
            the context length of the LLM.
        max_new_tokens: Tokens reserved for the answer. None uses the model's
            own setting.

    Raises:
        SampleError: An image cannot be read.
        ContextLengthError: Even the last question does not fit.
        ValueError: The numbers of image slots and images differ, or
            :func:`~minigpt4.prompts.text_validation.check_text` refuses a
            text.
    """
    template = model.template
    turns = _checked_turns(turns, len(images), template)
    slots = [turn.question.count(IMAGE_HERE) for turn in turns]
    check_image_slots(sum(slots), len(images), 'the chat')
    if system is None:
        system = model.system
    if system is not None:
        system = check_text(system, 'the system line', allow_empty=True)
    if max_new_tokens is None:
        max_new_tokens = SamplingParams.of(model.generation).max_new_tokens
    limits = [n for n in (max_context, model.context_length) if n]
    context = min(limits, default=math.inf)

    def tokenize_from(first: int) -> tuple[TokenizedPrompt, int]:
        """Tokenize the turns from one on; returns the number of tokens too."""
        remaining = list(turns[first:])
        remaining[0] = _prepend_images(
            remaining[0], sum(slots[:first]), template
        )
        tokenized = tokenize(
            render_chat(remaining, template, system), model.decoder.tokenizer
        )
        per_image = model.num_image_tokens
        return tokenized, (
            len(tokenized.ids) + tokenized.num_images * (per_image - 1)
        )

    def fits(first: int) -> bool:
        return tokenize_from(first)[1] + max_new_tokens <= context

    dropped, (tokenized, num_tokens) = 0, tokenize_from(0)
    if num_tokens + max_new_tokens > context:
        dropped = bisect.bisect_left(range(len(turns) - 1), True, key=fits)
        tokenized, num_tokens = tokenize_from(dropped)
    if num_tokens + max_new_tokens > context:
        raise ContextLengthError(
            f'the last question with {tokenized.num_images} images takes '
            f'{num_tokens} tokens and its answer up to {max_new_tokens}, but '
            f'the context holds {context}; ask a shorter question, give '
            'fewer images or lower max_new_tokens.'
        )
    tensors = [
        image
        if isinstance(image, Tensor)
        else load_image(image, model.image_size)
        for image in images
    ]
    notice = None
    if dropped:
        notice = (
            f'the context is full ({context} tokens): the {dropped} oldest '
            f'{"turn was" if dropped == 1 else "turns were"} dropped'
            f'{", their images kept" if sum(slots[:dropped]) else ""}.'
        )
    return ChatPrompt(tokenized, tensors, num_tokens, dropped, notice)


def _checked_turns(
    turns: Sequence[Turn], num_images: int, template: Template
) -> list[Turn]:
    """Check the questions; place images without a slot in the first one."""
    checked = [
        replace(
            turn,
            question=check_text(
                turn.question, 'the question', allow_empty=True
            ),
        )
        for turn in turns
    ]
    if checked and not any(IMAGE_HERE in turn.question for turn in checked):
        checked[0] = replace(
            checked[0],
            question=with_images(checked[0].question, num_images, template),
        )
    return checked


def _prepend_images(turn: Turn, num_images: int, template: Template) -> Turn:
    """Add image slots in front of those that the question has already."""
    if not num_images:
        return turn
    separator = '' if template.image == IMAGE_HERE else ' '
    question = template.image * num_images + separator + turn.question
    return replace(turn, question=question)


__getattr__ = renamed(__name__, {'Prompt': 'ChatPrompt'})
