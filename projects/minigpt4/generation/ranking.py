# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Likelihoods of given answers to a prompt."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .model_runner import ModelRunner
from .request import GenerationRequest


class AnswerScore(NamedTuple):
    """How likely an answer is.

    Attributes:
        mean: Mean log-likelihood of its tokens, in nats per token.
        num_tokens: Number of its tokens.
        is_greedy: Whether each of its tokens is the likeliest one, so that
            greedy decoding generates it.
    """

    mean: float
    num_tokens: int
    is_greedy: bool

    @property
    def log_likelihood(self) -> float:
        """Log-likelihood of all its tokens together, in nats."""
        return self.mean * self.num_tokens


def rank_branches(
    runner: ModelRunner,
    request: GenerationRequest,
    branches: Sequence[Sequence[int]],
) -> list[AnswerScore]:
    """Score answers with one pass over the prompt.

    Args:
        runner: The runner; the images of the prompt are encoded.
        request: The prompt, with a KV slot that has room for all answers.
        branches: Token ids of the answers.

    Returns:
        One score for each answer.
    """
    (first,) = runner.prefill([request])
    # the last token of an answer is only a target
    inputs = [branch[:-1] for branch in branches]
    others = first.new_empty(0, len(first))
    if any(inputs):
        others = runner.score_branches(request, inputs)
    scores = others.split([len(branch) for branch in inputs])
    return [
        _score(torch.cat((first[None], rest)), branch)
        for rest, branch in zip(scores, branches, strict=True)
    ]


def rank_one_by_one(
    runner: ModelRunner,
    request: GenerationRequest,
    branches: Sequence[Sequence[int]],
) -> list[AnswerScore]:
    """As :func:`rank_branches`, without KV slots.

    The prompt is computed again for each answer.
    """
    decoder = runner.decoder
    prompt = runner.prompt_embeddings(request)
    values = []
    for branch in branches:
        ids = torch.tensor(branch[:-1], dtype=torch.long)
        answer = decoder.embed_tokens(decoder.to_llm_device(ids))
        embeddings = torch.cat((prompt, answer))[None]
        hidden = decoder.hidden_states(
            embeddings,
            torch.ones(embeddings.shape[:2], dtype=torch.long),
            torch.arange(embeddings.shape[1])[None],
        )
        scores = decoder.logits(hidden[0, len(prompt) - 1 :])
        values.append(_score(scores, branch))
    return values


def _score(scores: Tensor, token_ids: Sequence[int]) -> AnswerScore:
    """Score the tokens of one answer.

    Args:
        scores: ``(T, vocab_size)`` logits.
        token_ids: The ``T`` tokens.
    """
    targets = torch.tensor(token_ids, device=scores.device)
    losses = torch.nn.functional.cross_entropy(scores.float(), targets)
    is_greedy = bool((scores.argmax(-1) == targets).all())
    return AnswerScore(-float(losses), len(token_ids), is_greedy)
