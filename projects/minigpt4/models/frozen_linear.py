# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Linear layers of frozen parts that multiply in 8 bits.

The weight ``W`` is rounded once, with one scale for each output channel; the
input ``X`` is rounded in each call, with one scale for each row. The gradient
of the input, ``dY @ W``, is the same kind of product. The weight gets none.

A few input channels of an LLM have values that are many times larger than the
others, which one scale would round to nothing. So the largest channels of each
call are not rounded. (LLM.int8, arXiv 2208.07339, does so above a threshold.)

Not torchao's dynamic 8 bits: version 0.18.0 computes no gradient, and on a
CPU its rounding and product take 1.2 times as long.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# on a GPU, torch multiplies float8 of these multiples only (int8 of 8), and
# int8 of more than 16 rows
_SIZE_MULTIPLE = 16
_CUDA_ROWS = 17
# input channels that are not rounded
_CHANNELS = 16
_FLOAT8 = torch.float8_e4m3fn
# the lowest compute capability of float8: Ada, Hopper
_FLOAT8_CAPABILITY = (8, 9)
# linear_dtype: type of the stored weight
_TYPES = {'int8': torch.int8, 'float8': _FLOAT8}
_LARGEST = {torch.int8: 127.0, _FLOAT8: torch.finfo(_FLOAT8).max}


class FrozenLinear(nn.Module):
    """A linear layer with an 8-bit weight, which is not trained.

    Its tensors are no parameters and not in the state dict: they follow from
    the weights that the layer was made of.

    Args:
        linear: The layer to replace; its weight is ``(N, K)``.
        dtype: ``'int8'`` or ``'float8'``.

    Attributes:
        weight: ``(N, K)``, 8 bits.
        scale: ``(N,)`` fp32; a row of the original weight is about
            ``weight * scale``.
        bias: ``(N,)``, or None.
    """

    def __init__(self, linear: nn.Linear, dtype: str) -> None:
        super().__init__()
        weight, scale = _round_rows(linear.weight.detach(), _TYPES[dtype])
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self.weight: Tensor
        self.scale: Tensor
        self.bias: Tensor | None
        bias = None if linear.bias is None else linear.bias.detach()
        self.register_buffer('weight', weight, persistent=False)
        self.register_buffer('scale', scale[:, 0], persistent=False)
        self.register_buffer('bias', bias, persistent=False)
        self._is_exact = int8_is_exact()
        # torch 2.11 cannot trace the product; not a decorator, as this
        # imports the compiler, which takes seconds
        self._multiply = torch.compiler.disable(_Product.apply)

    def _apply(
        self, fn: Callable[[Tensor], Tensor], recurse: bool = True
    ) -> 'FrozenLinear':
        """Implement ``to`` and ``half``: weight and scale keep their types."""
        kept = dict(weight=self.weight, scale=self.scale)
        super()._apply(fn, recurse)
        for name, tensor in kept.items():
            moved = getattr(self, name)
            if moved.dtype != tensor.dtype:
                setattr(self, name, tensor.to(moved.device))
        return self

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """``(..., K)`` to ``(..., N)`` of the same type.

        Args:
            x: The input; under autocast it is converted as for
                :class:`torch.nn.Linear`.
            bias: ``(N,)``, instead of the layer's own.
        """
        kind = x.device.type
        if torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))
        bias = self.bias if bias is None else bias
        return self._multiply(x, self.weight, self.scale, bias, self._is_exact)

    def extra_repr(self) -> str:
        """The sizes and the type, for ``print``."""
        return f'{self.in_features}, {self.out_features}, {self.weight.dtype}'


def apply_linear(
    layer: nn.Module, x: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Apply a linear layer with another bias than its own.

    Args:
        layer: A :class:`torch.nn.Linear` or a :class:`FrozenLinear`.
        x: ``(..., K)``.
        bias: ``(N,)``.
    """
    if isinstance(layer, FrozenLinear):
        return layer(x, bias)
    assert isinstance(layer, nn.Linear)
    return F.linear(x, layer.weight, bias)


def quantise_linears(
    module: nn.Module,
    linear_dtype: str | None,
    part: str,
    skip: nn.Module | None = None,
) -> None:
    """Replace the linear layers of a frozen part, in place.

    Layers whose sizes are no multiple of 16 are kept, because a GPU does not
    multiply them in 8 bits. A part on the meta device is not changed: it
    stands for the files, which have the original weights.

    Args:
        module: The part.
        linear_dtype: ``'int8'`` or ``'float8'``; None changes nothing.
        part: Its name in the config, for errors.
        skip: A layer to keep.

    Raises:
        ValueError: The type is unknown or unsupported by the GPU, a weight is
            trained, or there is no layer to replace.
    """
    if linear_dtype is None:
        return
    _check_type(linear_dtype, part)
    trained = [n for n, p in module.named_parameters() if p.requires_grad]
    if trained:
        raise ValueError(
            f'{part}.linear_dtype={linear_dtype!r} is for frozen weights, but '
            f'{trained[0]} of the {part} is trained; set '
            f'{part}.linear_dtype=None, or freeze the {part}.'
        )
    if any(p.is_meta for p in module.parameters()):
        return
    replaced = 0
    for parent in [*module.modules()]:
        for name, child in [*parent.named_children()]:
            if type(child) is not nn.Linear or child is skip:
                continue
            if any(n % _SIZE_MULTIPLE for n in child.weight.shape):
                continue
            setattr(parent, name, FrozenLinear(child, linear_dtype))
            replaced += 1
    if not replaced:
        raise ValueError(
            f'{part}.linear_dtype is {linear_dtype!r}, but the {part} has no '
            f'linear layer whose sizes are multiples of {_SIZE_MULTIPLE}; set '
            f'{part}.linear_dtype=None.'
        )


def _check_type(linear_dtype: str, part: str) -> None:
    """Refuse an unknown type, and one that the GPU does not have.

    Raises:
        ValueError: It is one of these.
    """
    if linear_dtype not in _TYPES:
        raise ValueError(
            f'{part}.linear_dtype is {linear_dtype!r}; expected '
            f'{" or ".join(map(repr, _TYPES))}, or None for layers that '
            f'multiply in {part}.dtype.'
        )
    if linear_dtype == 'float8' and torch.cuda.is_available():
        capability = torch.cuda.get_device_capability()
        if capability < _FLOAT8_CAPABILITY:
            raise ValueError(
                f"{part}.linear_dtype='float8' needs a GPU of compute "
                f'capability 8.9 (Ada, Hopper), this one has '
                f'{".".join(map(str, capability))}; set '
                f"{part}.linear_dtype='int8'."
            )


class _Product(torch.autograd.Function):
    """``x @ (weight * scale).T + bias``, with a gradient of ``x`` only."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        is_exact: bool,
    ) -> Tensor:
        """Round the rows of ``x``; nothing of ``x`` is stored."""
        ctx.save_for_backward(weight, scale)
        ctx.is_exact = is_exact
        y = multiply(x.flatten(0, -2), weight.t(), is_exact).mul_(scale)
        if bias is not None:
            y.add_(bias)
        return y.to(x.dtype).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple:
        """Round the rows of the gradient, after the scales of the weight."""
        weight, scale = ctx.saved_tensors
        (grad,) = grads
        y = multiply(grad.flatten(0, -2) * scale, weight, ctx.is_exact)
        y = y.to(grad.dtype).view(*grad.shape[:-1], -1)
        return y, None, None, None, None


def multiply(x: Tensor, weight: Tensor, is_exact: bool) -> Tensor:
    """Round the rows of ``x`` to the type of a weight, and multiply.

    The 16 columns of ``x`` with the largest values are not rounded.

    Args:
        x: ``(M, K)``, any float.
        weight: ``(K, N)`` int8 or float8.
        is_exact: :func:`int8_is_exact`.

    Returns:
        ``(M, N)`` fp32, without the scales of the weight. A row with a value
        that is not finite gives values that are not finite.
    """
    sizes = x.abs()
    columns = sizes.amax(0).topk(min(_CHANNELS, sizes.shape[1])).indices
    rounded, scale = _round_rows(x, weight.dtype, sizes, columns)
    if weight.dtype == _FLOAT8:
        y = _multiply_float8(rounded, scale, weight)
    else:
        y = _multiply_int8(rounded, weight, is_exact) * scale
    # torch 2.6 cannot index float8 on a CPU
    exact = weight.view(torch.int8)[columns].view(weight.dtype)
    return y.addmm_(x[:, columns].float(), exact.float())


def _round_rows(
    x: Tensor,
    dtype: torch.dtype,
    sizes: Tensor | None = None,
    columns: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Round rows to 8 bits, so that the largest value of each is exact.

    Args:
        x: ``(M, K)``.
        dtype: int8 or float8.
        sizes: ``(M, K)`` absolute values, which are changed.
        columns: Indices of columns that become zeros.

    Returns:
        ``(M, K)`` in ``dtype``, and the scales ``(M, 1)`` in fp32.
    """
    largest = _LARGEST[dtype]
    sizes = x.abs() if sizes is None else sizes
    if columns is not None:
        sizes.index_fill_(1, columns, 0)
    scale = sizes.amax(-1, keepdim=True).float() / largest
    scale.clamp_min_(torch.finfo(torch.float32).tiny)  # a row of zeros
    scaled = x / scale
    if columns is not None:
        scaled.index_fill_(1, columns, 0)
    if dtype == torch.int8:
        scaled.round_()
    return scaled.to(dtype), scale


def _multiply_int8(x: Tensor, weight: Tensor, is_exact: bool) -> Tensor:
    """``(M, K)`` and ``(K, N)`` int8 to their product ``(M, N)``.

    Returns:
        int32; fp32 on a CPU whose int8 product is not exact.
    """
    if x.is_cuda:
        rows = len(x)
        if rows < _CUDA_ROWS:
            x = F.pad(x, (0, 0, 0, _CUDA_ROWS - rows))
        return torch._int_mm(x, weight)[:rows]
    if is_exact:
        return torch._int_mm(x, weight)
    return x.float() @ weight.float()


@functools.cache
def int8_is_exact() -> bool:
    """Whether the int8 product of this CPU is exact.

    Without the instructions of VNNI, oneDNN adds pairs of products in 16
    bits, where large ones are cut off without an error.
    """
    x = (torch.arange(8 * 64, device='cpu') * 37 % 255 - 127).view(8, 64)
    found = torch._int_mm(x.to(torch.int8), x.to(torch.int8).t())
    return torch.equal(found.long(), x @ x.t())


def _multiply_float8(x: Tensor, scale: Tensor, weight: Tensor) -> Tensor:
    """``(M, K)`` float8 times its scales ``(M, 1)``, and ``(K, N)`` float8.

    Returns:
        ``(M, N)`` fp32; on a GPU rounded to bf16, as cuBLAS returns it.
    """
    if not x.is_cuda:
        return x.float() @ weight.float() * scale
    ones = scale.new_ones(1, weight.shape[1])
    column_major = weight.t().contiguous().t()
    return torch._scaled_mm(
        x,
        column_major,
        scale_a=scale,
        scale_b=ones,
        out_dtype=torch.bfloat16,
    ).float()
