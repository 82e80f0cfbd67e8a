# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Gradients of a batch from its pieces, averaged over ranks."""

from collections.abc import Callable, Sequence

import torch
from mmengine import dist
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from torch import Tensor

from .packing import MultimodalInputs


def count_targets(inputs: MultimodalInputs) -> int:
    """Count the supervised tokens of a piece, the unit of cross-entropy."""
    return len(inputs.targets)


def accumulate_gradients(
    model: BaseModel,
    pieces: Sequence[dict],
    optim_wrapper: OptimWrapper,
    names: Sequence[str] = ('loss',),
    count: Callable[[MultimodalInputs], int] = count_targets,
) -> dict[str, Tensor]:
    """Compute loss and gradients of a batch, piece by piece.

    The loss is the mean over the units (supervised tokens, or pairs) of the
    global batch, for any number of ranks and pieces. Gradients are averaged
    over ranks here, so no distributed wrapper has to process the frozen
    weights.

    Args:
        model: The model; with ``mode='loss'`` it returns ``names``, each a
            mean over the units of a piece.
        pieces: Pieces of the training collator, not preprocessed.
        optim_wrapper: Runs the backward pass.
        names: What to average: ``loss``, and values that are only logged.
        count: Number of units of a piece.

    Returns:
        The means by name, detached scalars; 0 where no sample of the global
        batch could be read.
    """
    num_units = sum(count(piece['inputs']) for piece in pieces)
    mean_units = torch.full(
        (), float(num_units), device=model.data_preprocessor.device
    )
    dist.all_reduce(mean_units, op='mean')
    if pieces and not num_units and mean_units == 0:
        # raises the error of a batch without targets
        model(inputs=pieces[0]['inputs'], mode='loss')
    totals = mean_units.new_zeros(len(names))
    trained = [p for p in model.parameters() if p.requires_grad]
    for piece in pieces:
        if count(piece['inputs']) == 0:
            continue
        with optim_wrapper.optim_context(model):
            piece = model.data_preprocessor(piece, True)
            weight = count(piece['inputs']) / mean_units
            means = model(**piece, mode='loss')
            loss = means['loss'] * weight
            if piece['images'] is None:
                # text only: a zero gradient, so that backward runs and all
                # ranks reduce the same tensors
                loss = loss + 0 * sum(p.sum() for p in trained)
        optim_wrapper.backward(loss)
        values = torch.stack([means[name].detach() for name in names])
        totals += values * weight
    for parameter in trained:  # of a rank whose samples were unreadable
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    dist.all_reduce_params([p.grad for p in trained], op='mean')
    dist.all_reduce(totals, op='mean')
    return dict(zip(names, totals.unbind(), strict=True))
