# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Merge LLaMA and a published delta to Vicuna."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..utils.atomic import replacing
from ..weights.hf_folder_files import copy_small_files
from ..weights.read import LazyTensor, open_tensors
from ..weights.write import write_sharded
from .convert_files import real_output

# tables with one row per token, of which the delta may have more
_TOKEN_TABLES = ('model.embed_tokens.weight', 'lm_head.weight')
# Fine-tuning changes weights by a few percent; a complete model that is given
# as the delta has a norm of about the base's.
_MAX_RELATIVE_NORM = 0.5


@dataclass
class MergeReport:
    """The result of a merge.

    Attributes:
        merged: Number of merged tensors.
        added_rows: Rows of the token tables that the base lacks, e.g. 1 for
            the ``[PAD]`` of Vicuna v0 (32,001 rows, LLaMA has 32,000).
        buffers: Number of tensors in either folder that are no weights.
        sha256: Hash of the merged tensors' bytes, in the order of their names.
    """

    merged: int
    added_rows: int
    buffers: int
    sha256: str

    def __str__(self) -> str:
        return (
            f'{self.merged} tensors merged, {self.added_rows} rows of tokens '
            f'added, {self.buffers} buffers left over\n'
            f'SHA-256 of the weights: {self.sha256}'
        )


def merge_delta(
    base: 'str | Path', delta: 'str | Path', out: 'str | Path'
) -> MergeReport:
    """Add a delta to LLaMA, one tensor at a time, and write the folder.

    The sum is computed in fp16, as in FastChat 0.1.10, so the weights are
    bit-equal to its. If the delta has more token rows than the base
    (``[PAD]`` of Vicuna v0), they are copied from the delta.

    Args:
        base: Folder of LLaMA in Hugging Face format.
        delta: Folder of the delta, with config and tokenizer.
        out: The folder to write; it is written completely or not at all.

    Returns:
        Counts and a checksum of the weights.

    Raises:
        FileNotFoundError: A folder or a shard of it is missing.
        ValueError: They do not fit each other.

    Source: ``fastchat/model/apply_delta.py`` of FastChat 0.1.10.
    """
    base, delta = Path(base), Path(delta)
    for folder, role in ((base, 'base'), (delta, 'delta')):
        if not (folder / 'config.json').is_file():
            raise FileNotFoundError(
                f'the {role} {folder} has no config.json; give a model folder '
                'in Hugging Face format.'
            )
    bases, n_base_buffers = _split_buffers(open_tensors(base))
    deltas, n_delta_buffers = _split_buffers(open_tensors(delta))
    _check_names(bases, deltas, base, delta)
    _check_norm(bases, deltas, delta)
    digests: dict[str, bytes] = {}
    merged = {
        name: _add(name, bases[name], deltas[name], digests) for name in deltas
    }
    with replacing(real_output(out)) as folder:
        copy_small_files(delta, folder)
        write_sharded(folder, merged, progress='merging')
    names = [name for name in _TOKEN_TABLES if name in deltas]
    total = hashlib.sha256(b''.join(digests[n] for n in sorted(digests)))
    return MergeReport(
        merged=len(merged),
        added_rows=max(
            (deltas[n].shape[0] - bases[n].shape[0] for n in names), default=0
        ),
        buffers=n_base_buffers + n_delta_buffers,
        sha256=total.hexdigest(),
    )


def _split_buffers(
    tensors: Mapping[str, LazyTensor],
) -> tuple[dict[str, LazyTensor], int]:
    """Return the weights, and the number of other tensors."""
    weights = {n: t for n, t in tensors.items() if not n.endswith('inv_freq')}
    return weights, len(tensors) - len(weights)


def _check_names(
    bases: Mapping[str, LazyTensor],
    deltas: Mapping[str, LazyTensor],
    base: Path,
    delta: Path,
) -> None:
    """Refuse a delta whose names or shapes differ from the base's.

    Token tables of the delta may have more rows.

    Raises:
        ValueError: They differ.
    """
    differing = sorted(set(bases) ^ set(deltas))
    if differing:
        raise ValueError(
            f'{base} and {delta} differ in {len(differing)} names of tensors, '
            f'e.g. {differing[0]}; give LLaMA and a delta made for it.'
        )
    for name, tensor in deltas.items():
        found, expected = bases[name].shape, tensor.shape
        may_grow = name in _TOKEN_TABLES and found[0] <= expected[0]
        if found[1:] != expected[1:] or (found != expected and not may_grow):
            raise ValueError(
                f'{name} is {found} in the base {base} but {expected} in the '
                f'delta {delta}; give the base of the same size.'
            )


def _check_norm(
    bases: Mapping[str, LazyTensor],
    deltas: Mapping[str, LazyTensor],
    delta: Path,
) -> None:
    """Refuse complete weights that were given as a delta.

    Raises:
        ValueError: The norm of a tensor is too large for a delta.
    """
    suffix = 'mlp.up_proj.weight'
    name = next((n for n in sorted(deltas) if n.endswith(suffix)), None)
    if name is None:
        raise ValueError(
            f'{delta} has no tensor {suffix}, so it is no LLaMA; give LLaMA '
            'and a delta made for it.'
        )
    delta_norm, base_norm = (
        tensors[name].read()[:256].float().norm().item()
        for tensors in (deltas, bases)
    )
    if delta_norm > _MAX_RELATIVE_NORM * base_norm:
        raise ValueError(
            f'{delta} is no delta: its {name} is '
            f'{delta_norm / base_norm:.2f} times as large as that of the '
            'base; is it a merged model, which needs no merging?'
        )


def _add(
    name: str, base: LazyTensor, delta: LazyTensor, digests: dict[str, bytes]
) -> LazyTensor:
    """Return the sum of base and delta, computed when it is read.

    Args:
        name: The tensor's name.
        base: ``(N, ...)``; ``N`` may be smaller than the delta's.
        delta: ``(M, ...)``.
        digests: The SHA-256 of the sum is added to it.
    """

    def read() -> Tensor:
        total = delta.read().to(torch.float16, copy=True)
        total[: base.shape[0]] += base.read().to(torch.float16)
        data = total.reshape(-1).view(torch.uint8).numpy().data
        digests[name] = hashlib.sha256(data).digest()
        return total

    return LazyTensor(delta.shape, torch.float16, read)
