# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The prompt that a chat is for the model, with room for the answer."""

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from ..generation.sampling import SamplingParams
from ..images.read import read_image, to_tensor
from ..models import MiniGPT4
from ..prompts import (
    IMAGE_HERE,
    PromptTemplate,
    TokenizedPrompt,
    Turn,
    render_chat,
    tokenize,
    with_images,
)
from ..prompts.text_validation import check_text


@dataclass
class Prompt:
    """A chat as an engine takes it.

    Attributes:
        row: The tokenised prompt.
        images: ``(3, H, W)`` uint8, one for each image slot.
        tokens: Tokens of the prompt, images included.
        dropped: Turns that did not fit.
        notice: A sentence that says so, or None.
    """

    row: TokenizedPrompt
    images: list[Tensor]
    tokens: int
    dropped: int = 0
    notice: str | None = None


class ContextLengthError(ValueError):
    """The last question and its answer exceed the LLM's context."""


def build_prompt(
    model: MiniGPT4,
    turns: Sequence[Turn],
    images: Sequence,
    system: str | None = None,
    max_context: int | None = None,
    max_new_tokens: int | None = None,
) -> Prompt:
    """A chat as a prompt that leaves room for the answer.

    What is too long loses its oldest turns, never the beginning-of-text
    token, the system line or an image: images of turns that are dropped
    move in front of the first question that is kept.

    Args:
        model: The model.
        turns: The turns; the answer of the last is None. Images stand where
            a question says ``<ImageHere>``; where none does, in front of the
            first.
        images: What :func:`~minigpt4.images.read.read_image` reads, or
            ``(3, H, W)`` uint8 tensors, in their order.
        system: The system line; None is the model's, '' leaves it out.
        max_context: Tokens of prompt and answer together; None is what the
            LLM takes.
        max_new_tokens: Tokens that are left to the answer; None is the
            model's own setting.

    Raises:
        SampleError: An image cannot be read.
        ValueError: There are more or fewer image slots than images, or even
            the last question does not fit, or one is refused by
            :func:`~minigpt4.prompts.text_validation.check_text`.
    """
    turns = [
        replace(
            turn,
            question=check_text(
                turn.question, 'the question', allow_empty=True
            ),
        )
        for turn in turns
    ]
    template = model.template
    if system is None:
        system = model.system
    if system is not None:
        system = check_text(system, 'the system line', allow_empty=True)
    limit = getattr(model.decoder.llm.config, 'max_position_embeddings', None)
    context = min(x for x in (max_context, limit, 2**31) if x)
    if max_new_tokens is None:
        max_new_tokens = SamplingParams.of(model.generation).max_new_tokens
    if turns and not any(IMAGE_HERE in turn.question for turn in turns):
        turns[0] = replace(
            turns[0],
            question=with_images(turns[0].question, len(images), template),
        )
    slots = [turn.question.count(IMAGE_HERE) for turn in turns]
    if sum(slots) != len(images):
        raise ValueError(
            f'{sum(slots)} image slots in the chat but {len(images)} images '
            f'were given; write {IMAGE_HERE} once per image, and nowhere '
            'else.'
        )
    number = model.neck.num_tokens

    def without(dropped: int) -> tuple[TokenizedPrompt, int]:
        kept = turns[dropped:]
        kept[0] = _with_older_images(kept[0], sum(slots[:dropped]), template)
        row = tokenize(
            render_chat(kept, template, system), model.decoder.tokenizer
        )
        return row, len(row.ids) + row.num_images * (number - 1)

    def fits(dropped: int) -> bool:
        return without(dropped)[1] + max_new_tokens <= context

    dropped, (row, tokens) = 0, without(0)
    if tokens + max_new_tokens > context:
        dropped = bisect.bisect_left(range(len(turns) - 1), True, key=fits)
        row, tokens = without(dropped)
    if tokens + max_new_tokens > context:
        raise ContextLengthError(
            f'the last question with {row.num_images} images takes {tokens} '
            f'tokens and its answer up to {max_new_tokens}, but the context '
            f'holds {context}; ask something shorter, show fewer images or '
            'lower max_new_tokens.'
        )
    notice = None
    if dropped:
        turns_were = 'turn was' if dropped == 1 else 'turns were'
        notice = (
            f'the context is full ({context} tokens): the {dropped} oldest '
            f'{turns_were} dropped'
            f'{", their images kept" if sum(slots[:dropped]) else ""}.'
        )
    tensors = [
        image
        if isinstance(image, Tensor)
        else to_tensor(read_image(image), model.image_size)
        for image in images
    ]
    return Prompt(row, tensors, tokens, dropped, notice)


def _with_older_images(
    turn: Turn, number: int, template: PromptTemplate
) -> Turn:
    if not number:
        return turn
    images = ''.join(template.image for _ in range(number))
    blank = '' if template.image == IMAGE_HERE else ' '
    return replace(turn, question=images + blank + turn.question)
