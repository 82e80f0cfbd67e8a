# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Checksums of a checkpoint's entries, to detect damage on loading.

A checkpoint stores two: one of the weights (``state_dict``), which every
reader of the weights checks, and one of all other entries (optimizer,
schedule, data position, random states), which resuming checks too.
Checkpoints without checksums (version 0.1, other projects) are accepted.
"""

import hashlib
from collections.abc import Mapping, MutableMapping
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor

CHECKSUM = 'checksum'  # entry of a checkpoint
_WEIGHTS = 'state_dict'


class ChecksumError(ValueError):
    """The content of a checkpoint differs from its stored checksum."""


def add_checksum(checkpoint: MutableMapping) -> None:
    """Store the checksums of a checkpoint in it.

    Args:
        checkpoint: The entries to be saved; modified in place.

    Raises:
        TypeError: An entry is of a type that :func:`digest` does not support.
    """
    checkpoint.pop(CHECKSUM, None)
    checkpoint[CHECKSUM] = dict(
        weights=digest(checkpoint.get(_WEIGHTS)),
        rest=digest(_rest(checkpoint)),
    )


def check_weights(checkpoint: Mapping, source: str = 'checkpoint') -> None:
    """Compare the weights of a checkpoint with their checksum, if it has one.

    Args:
        checkpoint: The entries of the file.
        source: Name of the file, for the error.

    Raises:
        ChecksumError: They differ.
    """
    stored = checkpoint.get(CHECKSUM)
    if stored is not None:
        _compare(stored, 'weights', checkpoint.get(_WEIGHTS), source)


def check_all(checkpoint: Mapping, source: str = 'checkpoint') -> None:
    """Compare all entries with their checksums; as :func:`check_weights`."""
    check_weights(checkpoint, source)
    stored = checkpoint.get(CHECKSUM)
    if stored is not None:
        _compare(stored, 'rest', _rest(checkpoint), source)


def _compare(stored: object, entry: str, value: object, source: str) -> None:
    expected = stored.get(entry) if isinstance(stored, Mapping) else None
    try:
        same = expected == digest(value)
    except TypeError:  # damage can change a type
        same = False
    if not same:
        raise ChecksumError(
            f'{source} differs from its checksum: the file is damaged; copy '
            'it again or use another one (after changing it on purpose, '
            f'remove its entry {CHECKSUM!r}).'
        )


def digest(value: object) -> str:
    """SHA-256 of nested values, as hexadecimal digits.

    Args:
        value: Dicts, lists, tuples, tensors, arrays, ``HistoryBuffer``,
            strings, bytes, numbers, booleans and None. The order of a dict's
            entries does not matter.

    Raises:
        TypeError: It holds another type.
    """
    state = hashlib.sha256()
    _update(state, value)
    return state.hexdigest()


def _update(state: Any, value: object) -> None:
    if isinstance(value, Tensor):
        tensor = value.detach().cpu().contiguous()
        state.update(f'T{tensor.dtype}{tuple(tensor.shape)}'.encode())
        if tensor.numel():
            state.update(tensor.reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, (np.ndarray, np.generic)):
        array = np.ascontiguousarray(value)
        state.update(f'A{array.dtype}{array.shape}'.encode())
        state.update(array.tobytes())
    elif isinstance(value, HistoryBuffer):
        state.update(b'H')
        for array in value.data:
            _update(state, array)
    elif isinstance(value, Mapping):
        state.update(f'D{len(value)}'.encode())
        for key in sorted(value, key=_sort_key):
            _update(state, key)
            _update(state, value[key])
    elif isinstance(value, (list, tuple)):
        state.update(f'L{len(value)}'.encode())
        for item in value:
            _update(state, item)
    elif isinstance(value, (str, bytes)):
        data = value if isinstance(value, bytes) else value.encode()
        state.update(f'{type(value).__name__}{len(data)}:'.encode() + data)
    elif value is None or isinstance(value, (bool, int, float)):
        state.update(f'{type(value).__name__}{value!r};'.encode())
    else:
        raise TypeError(
            f'a checkpoint holds a {type(value).__name__}; expected tensors, '
            'arrays, strings, numbers, and dicts and lists of these.'
        )


def _sort_key(key: object) -> tuple[str, str]:
    return type(key).__name__, repr(key)


def _rest(checkpoint: Mapping) -> dict:
    return {
        key: value
        for key, value in checkpoint.items()
        if key not in (_WEIGHTS, CHECKSUM)
    }
