# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""How the loss of an answer grows without one image token, or all of them.

An omitted token is hidden: no other position attends to it. All positions
keep their numbers, so nothing else of the sequence changes. (A token that is
replaced, e.g. by the mean of the others, would still add something; one that
is removed would move the positions behind it.)
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..models import MiniGPT4
from ..models.packing import MultimodalInputs
from .words import Word


class OmissionLosses(NamedTuple):
    """Losses of the same ``N`` tokens or words, in nats, fp64 on the CPU.

    Attributes:
        complete: ``(N,)``, with all image tokens.
        each: ``(Q, N)``, row ``q`` without image token ``q``.
        none: ``(N,)``, without any image token.
    """

    complete: Tensor
    each: Tensor
    none: Tensor

    def of_words(self, words: Sequence[Word]) -> 'OmissionLosses':
        """The losses of words: the sums of those of their tokens."""
        return OmissionLosses(
            *(
                torch.stack(
                    [x[..., w.start : w.stop].sum(-1) for w in words], -1
                )
                for x in self
            )
        )

    @property
    def increase(self) -> Tensor:
        """``(N, Q)``: loss without an image token minus that with all."""
        return (self.each - self.complete).T

    @property
    def increase_without_image(self) -> Tensor:
        """``(N,)``: loss without any image token minus that with all."""
        return self.none - self.complete


@torch.no_grad()
def losses_with_omissions(
    model: MiniGPT4,
    inputs: MultimodalInputs,
    image_tokens: Tensor,
    batch_size: int = 16,
    progress: Callable[[int], object] | None = None,
) -> OmissionLosses:
    """Compute the losses of an answer's tokens, ``Q + 2`` times.

    Args:
        model: The model, in eval mode.
        inputs: Prompt and answer, one sequence of ``N`` targets.
        image_tokens: ``(1, Q, hidden_size)``.
        batch_size: Sequences of one forward pass.
        progress: Called with the number of sequences after each pass.
    """
    embeddings = model.embed_inputs(None, inputs, image_tokens)
    masks = _omission_masks(inputs)
    length = masks.shape[1]
    losses = []
    for mask in masks.split(batch_size):
        number = len(mask)
        hidden = model.decoder.hidden_states(
            embeddings.expand(number, -1, -1),
            mask,
            inputs.position_ids.expand(number, -1),
        )
        starts = length * torch.arange(number, device=mask.device)
        positions = starts[:, None] + inputs.target_positions
        found = model.decoder.token_losses(
            hidden, positions.flatten(), inputs.targets.repeat(number)
        )
        losses.append(found.double().cpu().unflatten(0, (number, -1)))
        if progress is not None:
            progress(number)
    rows = torch.cat(losses)
    return OmissionLosses(rows[0], rows[1:-1], rows[-1])


def _omission_masks(inputs: MultimodalInputs) -> Tensor:
    """``(Q + 2, T)``: nothing omitted, each image token, all of them."""
    positions = inputs.image_positions
    number = len(positions)
    masks = inputs.attention_mask.repeat(number + 2, 1)
    rows = torch.arange(number, device=masks.device) + 1
    masks[rows, positions] = 0
    masks[-1, positions] = 0
    return masks
