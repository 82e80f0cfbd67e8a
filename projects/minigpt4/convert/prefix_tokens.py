# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The learned prefix of a head, as tokens of the LLM's vocabulary.

No class of transformers puts learned embeddings before those of an image. So
the folder has special tokens with these embeddings, which the chat template
writes before each image token, and which generation suppresses.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..weights.read import LazyTensor
from .export_sources import EmptyModel, Tensors


def prefix_token_names(count: int) -> list[str]:
    """Return the names of the special tokens."""
    return [f'<|image_prefix_{i}|>' for i in range(count)]


def prefix_embeddings(head: Tensors) -> Tensor | None:
    """Return the learned prefix of a head, if it has one.

    Args:
        head: The tensors of the head.

    Returns:
        ``(P, width of the LLM)`` fp32.
    """
    prefix = head.get('head.prefix')
    return None if prefix is None else prefix.read().float()


def with_prefix_rows(
    model: EmptyModel, llm: Tensors, embeddings: Tensor, ids: Sequence[int]
) -> tuple[Tensors, int]:
    """Add the prefix to the embedding table of the LLM.

    Both tables become fp32: in the type of the file the prefix would be
    rounded. The rows of an output layer of its own are zeros.

    Args:
        model: The modules.
        llm: The tensors of the LLM by its own names.
        embeddings: ``(P, width)``.
        ids: The ids of the tokens.

    Returns:
        The tensors, and the number of rows.
    """
    module = model.decoder.llm
    rows = max(module.get_input_embeddings().weight.shape[0], ids[-1] + 1)
    tables = (
        (module.get_input_embeddings(), embeddings),
        (module.get_output_embeddings(), torch.zeros_like(embeddings)),
    )
    names = {
        name: (table, values)
        for table, values in reversed(tables)
        for name, parameter in module.named_parameters(remove_duplicate=False)
        if parameter is table.weight and name in llm
    }
    changed = dict(llm)
    for name, (_, values) in names.items():
        changed[name] = _with_rows(llm[name], rows, values, ids)
    return changed, rows


def _with_rows(
    table: LazyTensor, rows: int, values: Tensor, ids: Sequence[int]
) -> LazyTensor:
    """Set rows of a table, which gets so many rows, in fp32."""
    shape = (rows, *table.shape[1:])

    def read() -> Tensor:
        extended = torch.zeros(shape)
        extended[: table.shape[0]] = table.read()
        extended[[*ids]] = values
        return extended

    return LazyTensor(shape, torch.float32, read)
