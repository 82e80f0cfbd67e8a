# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""How an answer is generated where vLLM's own rules differ from ours.

A repetition penalty applies to the words of the answer. vLLM applies its own
to those of the prompt too, and has no setting for this.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

# in SamplingParams.extra_args of vLLM
PENALTY = 'answer_repetition_penalty'


def adapt_params(params: Any, stop: Sequence[str]) -> None:
    """Change the sampling parameters of a request to our rules.

    The stop strings of the model are added to those of the request, and the
    repetition penalty is moved to where vLLM does not apply it. A second call
    changes nothing.

    Args:
        params: ``SamplingParams`` of vLLM, which is changed.
        stop: Stop strings of the model.
    """
    if params.detokenize:  # without a text there are no stop strings
        given = [*(params.stop or ())]
        params.stop = [*given, *(x for x in stop if x not in given)]
    if params.repetition_penalty != 1:
        params.extra_args = {
            **(params.extra_args or {}),
            PENALTY: params.repetition_penalty,
        }
        params.repetition_penalty = 1.0


def penalty_of(params: Any) -> float:
    """Return the repetition penalty of an adapted request; 1 is none."""
    return float((params.extra_args or {}).get(PENALTY, 1.0))


def penalize(scores: Tensor, is_repeated: Tensor, penalty: Tensor) -> Tensor:
    """Make tokens of the answer less likely, as transformers does.

    Args:
        scores: ``(B, vocab_size)`` logits, fp32.
        is_repeated: ``(B, vocab_size)`` bool, the tokens of the answers.
        penalty: ``(B, 1)`` fp32.

    Returns:
        ``(B, vocab_size)`` logits.
    """
    changed = torch.where(scores < 0, scores * penalty, scores / penalty)
    return torch.where(is_repeated, changed, scores)


def repeated_tokens(
    token_ids: Tensor, start: Tensor, end: Tensor, vocab_size: int
) -> Tensor:
    """Return which tokens of the vocabulary each answer has.

    Args:
        token_ids: ``(B, L)`` int, prompt, answer and unused places.
        start: ``(B, 1)`` int, where the answer begins.
        end: ``(B, 1)`` int, where it ends.
        vocab_size: Columns of the result.

    Returns:
        ``(B, vocab_size)`` bool.
    """
    position = torch.arange(token_ids.shape[1], device=token_ids.device)
    is_answer = (position >= start) & (position < end)
    found = torch.zeros(
        (len(token_ids), vocab_size + 1),
        dtype=torch.bool,
        device=token_ids.device,
    )
    # tokens outside of the answer go to a column that is cut off
    columns = token_ids.long().masked_fill(~is_answer, vocab_size)
    return found.scatter_(1, columns, True)[:, :-1]
