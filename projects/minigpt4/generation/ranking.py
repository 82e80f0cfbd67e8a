# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""How likely an LLM finds given answers to a prompt."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .model_runner import ModelRunner


def rank_branches(
    reader: 'ModelRunner',
    keys: Sequence[int],
    start: int,
    branches: Sequence[Sequence[int]],
    slot: int,
) -> list[float]:
    """Mean log-likelihoods of answers that are read after one prompt.

    Args:
        reader: Its images have been seen.
        keys: The prompt.
        start: How much of it the slot holds; it holds all afterwards.
        branches: Token ids of the answers.
        slot: The slot.
    """
    (first,) = reader.read([reader.embed(keys, start)], [start], slot)
    # the last token of an answer is only a target
    fed = [branch[:-1] for branch in branches]
    rest = first.new_empty(0, len(first))
    if any(fed):
        rest = reader.read_branches(fed, len(keys), slot)
    parts = rest.split([len(branch) for branch in fed])
    return [
        _mean(torch.cat((first[None], part)), branch)
        for part, branch in zip(parts, branches, strict=True)
    ]


def rank_one_by_one(
    reader: 'ModelRunner',
    keys: Sequence[int],
    branches: Sequence[Sequence[int]],
) -> list[float]:
    """The same without slots: the prompt is read with each answer."""
    decoder = reader.decoder
    out = []
    for branch in branches:
        whole = reader.embed([*keys, *branch[:-1]], 0)[None]
        hidden = decoder.hidden_states(
            whole,
            torch.ones(whole.shape[:2], dtype=torch.long),
            torch.arange(whole.shape[1])[None],
        )
        scores = decoder.logits(hidden[0, len(keys) - 1 :])
        out.append(_mean(scores, branch))
    return out


def _mean(scores: Tensor, token_ids: Sequence[int]) -> float:
    """Mean log-likelihood of tokens, in nats."""
    targets = torch.tensor(token_ids, device=scores.device)
    losses = torch.nn.functional.cross_entropy(scores.float(), targets)
    return -float(losses)
