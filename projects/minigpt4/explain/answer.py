# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The greedy answer that is explained, as one sequence with its prompt."""

from typing import Any, NamedTuple

from mmengine.structures import BaseDataElement
from torch import Tensor

from ..models import MiniGPT4
from ..models.packing import MultimodalInputs, build_inputs
from ..prompts import TokenizedPrompt
from .words import Word, split_words


class ExplainedAnswer(NamedTuple):
    """An answer, and the sequence that the LLM reads to generate it.

    Attributes:
        text: The answer.
        words: Its words; their tokens are the ``N`` targets of ``inputs``.
        finished: Whether the model ended it, not the longest length.
        inputs: Prompt and answer as one sequence of ``T`` positions, on the
            device of the model; the last token is a target only.
    """

    text: str
    words: list[Word]
    finished: bool
    inputs: MultimodalInputs


def answer_greedily(
    model: MiniGPT4,
    sample: BaseDataElement,
    max_new_tokens: int | None = None,
) -> ExplainedAnswer:
    """Answer a sample with one image, with the likeliest token each time.

    Args:
        model: The model, in eval mode.
        sample: ``images``, one ``(3, H, W)`` uint8, and ``turns``, the last
            without an answer.
        max_new_tokens: The most tokens of the answer; None is the model's
            setting. Its repetition penalty applies too.

    Raises:
        ValueError: The sample has no image or several, the model has no image
            tokens, or the answer has no word.
    """
    check_sample(model, sample)
    settings: dict[str, Any] = dict(do_sample=False, num_beams=1)
    if max_new_tokens is not None:
        settings['max_new_tokens'] = max_new_tokens
    prompt = model.collator(training=False).tokenize(sample)
    (answer,) = model.generate([sample], **settings)
    words = split_words(model.decoder.tokenizer, answer.token_ids, answer.text)
    if not words:
        raise ValueError(
            'the answer of the model is empty, so there is no word to '
            'explain; ask something else with --prompt.'
        )
    return ExplainedAnswer(
        answer.text,
        words,
        answer.finished,
        _sequence(model, prompt, answer.token_ids[: words[-1].stop]),
    )


def check_sample(model: MiniGPT4, sample: BaseDataElement) -> None:
    """Refuse what cannot be explained.

    Raises:
        ValueError: The sample has no image or several, or the model has no
            image tokens or no backbone.
    """
    number = len(sample.images)
    if number != 1:
        raise ValueError(
            f'the question has {number or "no"} image{"s" * (number > 1)}; '
            'an answer is explained by one image, give exactly one.'
        )
    if model.num_image_tokens < 1:
        raise ValueError(
            'the model has no image tokens, so no part of an image can '
            'explain its answers; use a model with a Q-Former or another '
            'neck.'
        )
    _ = model.image_size  # its error names a model of cached features


def encode_pixels(model: MiniGPT4, sample: BaseDataElement) -> Tensor:
    """The normalised image of a sample: ``(1, 3, H, W)``."""
    return model.data_preprocessor.normalize(sample.images[0][None])


def _sequence(
    model: MiniGPT4, prompt: TokenizedPrompt, token_ids: list[int]
) -> MultimodalInputs:
    """Prompt and answer, whose tokens are the targets."""
    complete = TokenizedPrompt(
        [*prompt.ids, *token_ids],
        [False] * len(prompt.ids) + [True] * len(token_ids),
    )
    inputs = build_inputs([complete], model.num_image_tokens)
    return model.data_preprocessor(dict(images=None, inputs=inputs))['inputs']
