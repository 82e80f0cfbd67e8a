# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Vicuna v0 from LLaMA and a published delta."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..utils.atomic import replacing
from ..weights.folder_files import copy_small_files
from ..weights.read import LazyTensor, open_tensors
from ..weights.write import write_sharded
from .files import real_output

# tables with a row for each token: the delta's may have more rows
_TOKEN_TABLES = ('model.embed_tokens.weight', 'lm_head.weight')
# a fine-tuned weight moves by a few percent; a whole model given as the
# delta has about the base's own size
_LARGEST_MOVE = 0.5


@dataclass
class MergeReport:
    """What a merge did.

    Attributes:
        merged: Tensors that were added up.
        added_rows: Rows of the token tables that the base lacks, e.g. 1 for
            the ``[PAD]`` of Vicuna v0 (32001 rows on 32000).
        buffers: Tensors of either side that are no weights.
        sha256: Of all merged tensors' bytes, in the order of their names.
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

    The sum is taken in fp16, as FastChat 0.1.10 did, so the weights are
    bit-equal to its. Where the delta has more rows of tokens than the base
    (``[PAD]`` of Vicuna v0), the base counts as zero there.

    Args:
        base: Folder of LLaMA in Hugging Face format.
        delta: Folder of the delta, with config and tokenizer.
        out: The folder to write; it stands there whole or not at all.

    Returns:
        What was done, with a checksum of the weights.

    Raises:
        FileNotFoundError: A folder or a shard of it is missing.
        ValueError: They do not belong together.

    Source: ``fastchat/model/apply_delta.py`` of FastChat 0.1.10.
    """
    base, delta = Path(base), Path(delta)
    for folder, what in ((base, 'base'), (delta, 'delta')):
        if not (folder / 'config.json').is_file():
            raise FileNotFoundError(
                f'the {what} {folder} has no config.json; give a model folder '
                'in Hugging Face format.'
            )
    bases, buffers = _weights(open_tensors(base))
    deltas, more = _weights(open_tensors(delta))
    _check_names(bases, deltas, base, delta)
    _check_size_of_move(bases, deltas, delta)
    digests: dict[str, bytes] = {}
    merged = {
        name: _sum(name, bases[name], deltas[name], digests) for name in deltas
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
        buffers=buffers + more,
        sha256=total.hexdigest(),
    )


def _weights(
    tensors: Mapping[str, LazyTensor],
) -> tuple[dict[str, LazyTensor], int]:
    """The weights, and how many buffers beside them were left out."""
    kept = {n: t for n, t in tensors.items() if not n.endswith('inv_freq')}
    return kept, len(tensors) - len(kept)


def _check_names(bases, deltas, base: Path, delta: Path) -> None:
    differing = sorted(set(bases) ^ set(deltas))
    if differing:
        raise ValueError(
            f'{base} and {delta} differ in {len(differing)} names of tensors, '
            f'e.g. {differing[0]}; give LLaMA and a delta made for it.'
        )
    for name, tensor in deltas.items():
        found, want = bases[name].shape, tensor.shape
        rows = name in _TOKEN_TABLES and found[0] <= want[0]
        if found[1:] != want[1:] or (found != want and not rows):
            raise ValueError(
                f'{name} is {found} in the base {base} but {want} in the '
                f'delta {delta}; give the base of the same size.'
            )


def _check_size_of_move(bases, deltas, delta: Path) -> None:
    """Refuse whole weights that were given as a delta."""
    last = 'mlp.up_proj.weight'
    name = next((n for n in sorted(deltas) if n.endswith(last)), None)
    if name is None:
        raise ValueError(
            f'{delta} has no tensor {last}, so it is no LLaMA; give LLaMA and '
            'a delta made for it.'
        )
    moved, stood = (
        side[name].read()[:256].float().norm().item()
        for side in (deltas, bases)
    )
    if moved > _LARGEST_MOVE * stood:
        raise ValueError(
            f'{delta} is no delta: its {name} is {moved / stood:.2f} times as '
            'large as that of the base; is it a merged model, which needs no '
            'merging?'
        )


def _sum(
    name: str, base: LazyTensor, delta: LazyTensor, digests: dict[str, bytes]
) -> LazyTensor:
    def read() -> Tensor:
        total = delta.read().to(torch.float16, copy=True)
        total[: base.shape[0]] += base.read().to(torch.float16)
        data = total.reshape(-1).view(torch.uint8).numpy().data
        digests[name] = hashlib.sha256(data).digest()
        return total

    return LazyTensor(delta.shape, torch.float16, read)
