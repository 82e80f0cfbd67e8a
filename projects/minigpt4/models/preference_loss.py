# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The loss of direct preference optimization (DPO) of pairs of answers."""

import torch
from torch import Tensor
from torch.nn import functional as F


def answer_scores(
    token_losses: Tensor,
    target_counts: Tensor,
    normalize_length: bool = False,
) -> Tensor:
    """Log-probabilities of answers from the losses of their tokens.

    Args:
        token_losses: ``(M,)`` nats, sequence after sequence.
        target_counts: ``(S,)`` int64, tokens of each sequence, together
            ``M``.
        normalize_length: Whether to return means over the tokens of an
            answer instead of sums.

    Returns:
        ``(S,)`` fp32, nats, at most 0.
    """
    numbers = torch.arange(len(target_counts), device=target_counts.device)
    sequence = torch.repeat_interleave(
        numbers, target_counts, output_size=len(token_losses)
    )
    sums = token_losses.new_zeros(len(target_counts)).index_add(
        0, sequence, -token_losses
    )
    return sums / target_counts.clamp(min=1) if normalize_length else sums


def reward_margins(scores: Tensor, reference: Tensor, beta: float) -> Tensor:
    """Rewards of the chosen answers minus those of the rejected ones.

    The reward of an answer is ``beta`` times the log of the ratio of its
    probabilities under the trained and the reference model.

    Args:
        scores: ``(2, P)`` log-probabilities of ``P`` chosen and rejected
            answers, nats.
        reference: ``(2, P)``, the same under the reference model.
        beta: Weight of the distance to the reference model, above 0.

    Returns:
        ``(P,)``.

    Source: Rafailov et al. 2023 (arXiv 2305.18290), equation 7.
    """
    chosen, rejected = scores - reference
    return beta * (chosen - rejected)


def preference_losses(margins: Tensor, label_smoothing: float = 0) -> Tensor:
    """Loss of each pair: ``-log sigmoid(margin)``, finite for any margin.

    Args:
        margins: ``(P,)``, of :func:`reward_margins`.
        label_smoothing: Assumed probability that a pair is labelled the wrong
            way round, from 0 to below 0.5.

    Returns:
        ``(P,)`` nats; log 2 at margin 0.

    Source: Rafailov et al. 2023 (arXiv 2305.18290), equation 7; with label
    smoothing, Mitchell 2023, "A note on DPO with noisy preferences".
    """
    losses = -F.logsigmoid(margins)
    if not label_smoothing:
        return losses
    wrong_way_round = -F.logsigmoid(-margins)
    return (1 - label_smoothing) * losses + label_smoothing * wrong_way_round
