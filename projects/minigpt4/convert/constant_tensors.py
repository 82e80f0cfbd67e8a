# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Tensors of layers that change nothing, and tensors of another size."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..weights.read import LazyTensor
from .export_sources import Tensors

# the sigmoid of it is 1 in fp32
_OPEN_GATE = 30.0


class Constants:
    """Tensors of layers of EfficientNet that change nothing.

    Args:
        dtype: Their type.
        eps: The eps of the batch norms.
    """

    def __init__(self, dtype: torch.dtype, eps: float) -> None:
        self.dtype = dtype
        self.eps = eps

    def fill(self, value: float, *shape: int) -> LazyTensor:
        """Return a tensor of one value."""
        return LazyTensor(
            shape,
            self.dtype,
            lambda: torch.full(shape, value, dtype=self.dtype),
        )

    def identity(self, rows: int, columns: int) -> LazyTensor:
        """Return a convolution that keeps the first ``rows`` channels."""
        return LazyTensor(
            (rows, columns, 1, 1),
            self.dtype,
            lambda: torch.nn.init.dirac_(
                torch.empty(rows, columns, 1, 1, dtype=self.dtype)
            ),
        )

    def norm(self, prefix: str, channels: int) -> Tensors:
        """Return the tensors of a batch norm."""
        return {
            f'{prefix}weight': self.fill(1.0, channels),
            f'{prefix}bias': self.fill(0.0, channels),
            f'{prefix}running_mean': self.fill(0.0, channels),
            f'{prefix}running_var': self.fill(1 - self.eps, channels),
        }

    def open_gate(self, block_name: str, channels: int) -> Tensors:
        """Return the tensors of a squeeze-and-excitation of factor 1."""
        prefix = f'{block_name}squeeze_excite.'
        return {
            f'{prefix}reduce.weight': self.fill(0.0, 1, channels, 1, 1),
            f'{prefix}reduce.bias': self.fill(0.0, 1),
            f'{prefix}expand.weight': self.fill(0.0, channels, 1, 1, 1),
            f'{prefix}expand.bias': self.fill(_OPEN_GATE, channels),
        }


def repeat_rows(
    lazy: LazyTensor, copies: int, rows: int, fill: float
) -> LazyTensor:
    """Repeat a tensor along its first dimension, and fill it up to ``rows``.

    Args:
        lazy: The tensor.
        copies: How often it is repeated.
        rows: Length of the first dimension; at least that of the copies.
        fill: Value of the further rows.
    """
    shape = (rows, *lazy.shape[1:])

    def read() -> Tensor:
        tensor = lazy.read()
        rest = tensor.new_full((rows - copies * len(tensor), *shape[1:]), fill)
        return torch.cat([*[tensor] * copies, rest])

    return LazyTensor(shape, lazy.dtype, read)


def extend(
    lazy: LazyTensor, axis: int, length: int, fill: float
) -> LazyTensor:
    """Lengthen a tensor along a dimension with one value."""
    shape = (*lazy.shape[:axis], length, *lazy.shape[axis + 1 :])

    def read() -> Tensor:
        tensor = lazy.read()
        extended = tensor.new_full(shape, fill)
        extended.narrow(axis, 0, lazy.shape[axis]).copy_(tensor)
        return extended

    return LazyTensor(shape, lazy.dtype, read)


def cut(lazy: LazyTensor, shape: Sequence[int]) -> LazyTensor:
    """Keep the start of a tensor along its first dimensions.

    Args:
        lazy: The tensor.
        shape: Lengths of the first dimensions; the others are kept.
    """
    part = tuple(slice(length) for length in shape)
    return LazyTensor(
        (*shape, *lazy.shape[len(shape) :]),
        lazy.dtype,
        lambda: lazy.read()[part].clone(),
    )
