# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Gradients of a batch from its pieces, averaged over ranks."""

from collections.abc import Sequence

import torch
from mmengine import dist
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from torch import Tensor


def accumulate_gradients(
    model: BaseModel, pieces: Sequence[dict], optim_wrapper: OptimWrapper
) -> Tensor:
    """Compute loss and gradients of a batch, piece by piece.

    The loss is the mean over the supervised tokens of the global batch, for
    any number of ranks and pieces. Gradients are averaged over ranks here, so
    no distributed wrapper has to process the frozen weights.

    Args:
        model: The model.
        pieces: Pieces of the training collator, not preprocessed.
        optim_wrapper: Runs the backward pass.

    Returns:
        The loss, a detached scalar; 0 where no sample of the global batch
        could be read.
    """
    num_targets = sum(len(piece['inputs'].targets) for piece in pieces)
    mean_targets = torch.full(
        (), float(num_targets), device=model.data_preprocessor.device
    )
    dist.all_reduce(mean_targets, op='mean')
    if pieces and not num_targets and mean_targets == 0:
        # raises the error of a batch without targets
        model(inputs=pieces[0]['inputs'], mode='loss')
    total = torch.zeros_like(mean_targets)
    trained = [p for p in model.parameters() if p.requires_grad]
    for piece in pieces:
        if len(piece['inputs'].targets) == 0:
            continue
        with optim_wrapper.optim_context(model):
            piece = model.data_preprocessor(piece, True)
            weight = len(piece['inputs'].targets) / mean_targets
            loss = model(**piece, mode='loss')['loss'] * weight
            if piece['images'] is None:
                # text only: a zero gradient, so that backward runs and all
                # ranks reduce the same tensors
                loss = loss + 0 * sum(p.sum() for p in trained)
        optim_wrapper.backward(loss)
        total += loss.detach()
    for parameter in trained:  # of a rank whose samples were unreadable
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    dist.all_reduce_params([p.grad for p in trained], op='mean')
    dist.all_reduce(total, op='mean')
    return total
