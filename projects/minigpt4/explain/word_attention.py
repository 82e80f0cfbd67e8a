# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The attention of the LLM from an answer to the image tokens.

One pass of transformers' own modules with their slow ("eager") attention,
which returns its weights; the fast passes do not compute them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..models import MiniGPT4
from ..models.packing import MultimodalInputs
from .words import Word


@torch.no_grad()
def token_attention(
    model: MiniGPT4, inputs: MultimodalInputs, image_tokens: Tensor
) -> Tensor:
    """The attention behind each token of an answer.

    It is that of the position which generates the token: the one before it.

    Args:
        model: The model, in eval mode.
        inputs: Prompt and answer, one sequence of ``N`` targets.
        image_tokens: ``(1, Q, hidden_size)``.

    Returns:
        ``(N, Q)`` fp32 on the CPU, mean over heads and layers. The rest up to
        1 is the attention to text.

    Raises:
        ValueError: The LLM does not return attention weights.
    """
    decoder = model.decoder
    embeddings = model.embed_inputs(None, inputs, image_tokens)
    with _eager_attention(decoder.llm.config):
        layers = decoder.llm.base_model(
            inputs_embeds=decoder.to_llm_device(embeddings),
            attention_mask=decoder.to_llm_device(inputs.attention_mask),
            position_ids=decoder.to_llm_device(inputs.position_ids),
            use_cache=False,
            output_attentions=True,
        ).attentions
    if not layers or any(weights is None for weights in layers):
        raise ValueError(
            f'{decoder.name_or_path} ({decoder.llm.config.model_type}) does '
            'not return the weights of its attention, which the explanation '
            'needs; use an LLM of another family, e.g. llama.'
        )
    rows, columns = inputs.target_positions, inputs.image_positions
    shares = [
        weights[0].float().mean(0).cpu()[rows.cpu()][:, columns.cpu()]
        for weights in layers
    ]
    return torch.stack(shares).mean(0)


def word_attention(
    attention: Tensor, words: Sequence[Word]
) -> tuple[Tensor, Tensor]:
    """The attention of words from that of their tokens.

    Args:
        attention: ``(N, Q)`` of :func:`token_attention`.
        words: ``W`` words.

    Returns:
        ``(W, Q)``, mean over the tokens of a word, which sums to 1 over the
        image tokens (or is 0 where no image token is attended to); and
        ``(W,)``, the share of the whole attention that the image tokens
        have.
    """
    means = torch.stack(
        [attention[word.start : word.stop].mean(0) for word in words]
    )
    share = means.sum(1)
    return means / share.clamp_min(1e-12)[:, None], share


@contextmanager
def _eager_attention(config: Any) -> Iterator[None]:
    implementation = config._attn_implementation
    config._attn_implementation = 'eager'
    try:
        yield
    finally:
        config._attn_implementation = implementation
