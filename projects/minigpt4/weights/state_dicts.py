# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""State dicts of any origin: wrapping dicts, name prefixes, NumPy arrays.

``get_model``, ``load_from``, ``--pretrained`` and ``minigpt4 convert`` all
read state dicts through these functions, so that they accept the same files.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

# the entry of a state dict's metadata that names its file
SOURCE = 'source'
# keys under which a state dict is saved by mmengine, MiniGPT-4 and LAVIS,
# DeepSpeed, and custom training loops
WRAPPERS = (
    'state_dict',
    'model',
    'module',
    'model_state_dict',
    'model_state',
    'net',
)
# prefixes that DataParallel, torch.compile, DeepSpeed, Lightning and peft add
# to all names
_PREFIX = re.compile(
    r'^(?:(?:module|_orig_mod|_forward_module|model|base_model\.model)\.)+'
)
# what torch.compile, FSDP and activation checkpointing insert into names
_INFIX = re.compile(
    r'(?<=\.)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.'
)
_HEAD_NAME = re.compile(r'(?:head\.layers\.\d+|llama_proj)\.(?:weight|bias)')
_LAYOUT_NAMES = {
    torch.sparse_coo: 'sparse',
    torch.sparse_csr: 'sparse',
    torch.sparse_csc: 'sparse',
    torch.sparse_bsr: 'sparse',
    torch.sparse_bsc: 'sparse',
}


def check_names(content: Any, source: object, where: str = '') -> None:
    """Refuse anything but a dict whose keys are strings.

    Args:
        content: The unpickled object.
        source: The file, for errors.
        where: Where in the file, e.g. `` under 'model'``, for errors.

    Raises:
        ValueError: It is not a dict, or a key is not a string.
    """
    if not isinstance(content, Mapping):
        raise ValueError(
            f'{source} holds a {type(content).__name__}{where}; expected '
            'a dict of named tensors.'
        )
    invalid = next((k for k in content if not isinstance(k, str)), None)
    if invalid is not None:
        raise ValueError(
            f'{source} has a name that is no text ({invalid!r}){where}; '
            'expected a dict of named tensors.'
        )


def unwrap(content: Any, source: object) -> Mapping[str, Any]:
    """Return the state dict in the content of a file.

    Args:
        content: The unpickled object: a state dict, or one under one or more
            keys of ``WRAPPERS``.
        source: The file, for errors.

    Returns:
        The innermost dict; its values may be anything.

    Raises:
        ValueError: It is no dict, a key is no string, or there are two state
            dicts.
    """
    where = ''
    while True:
        check_names(content, source, where)
        wrapped = [key for key in WRAPPERS if key in content]
        if not wrapped or any(isinstance(v, Tensor) for v in content.values()):
            return content
        with_tensors = [k for k in wrapped if _holds_tensors(content[k])]
        if len(with_tensors) > 1 or (
            with_tensors and with_tensors[0] != wrapped[0]
        ):
            raise ValueError(
                f'{source} holds weights under more than one of '
                f'{", ".join(wrapped)}{where}; save the one that is meant.'
            )
        key = with_tensors[0] if with_tensors else wrapped[0]
        content = content[key]
        where = f' under {key!r}'


def _holds_tensors(content: Any) -> bool:
    """Whether a dict, or a dict under a key of ``WRAPPERS``, has tensors."""
    return isinstance(content, Mapping) and any(
        isinstance(value, (Tensor, np.ndarray))
        or (key in WRAPPERS and _holds_tensors(value))
        for key, value in content.items()
    )


def bare_name(name: str) -> str:
    """Remove what wrapping modules add before and within a name."""
    return _PREFIX.sub('', _INFIX.sub('', name))


def match_names(
    names: Iterable[str], expected: Collection[str], source: object
) -> dict[str, str]:
    """Map expected names to the names in a file, which may have a prefix.

    A prefix is removed only if all expected names of the file have it.

    Args:
        names: The names in the file.
        expected: The names without prefixes.
        source: The file, for errors.

    Returns:
        Expected name: name in the file; missing names are omitted.

    Raises:
        ValueError: The file has an expected name twice, or a prefix before
            some of them only.
    """
    found: dict[str, str] = {}
    prefixes: dict[str, str] = {}
    for name in names:
        bare = name if name in expected else bare_name(name)
        if bare not in expected:
            continue
        if bare in found:
            raise ValueError(
                f'{source} holds both {found[bare]} and {name}, which are one '
                'tensor with and without a prefix; save the one that is meant.'
            )
        found[bare] = name
        prefixed = _INFIX.sub('', name)
        prefixes.setdefault(prefixed[: len(prefixed) - len(bare)], name)
    if len(prefixes) > 1:
        (first, one), (second, other) = list(prefixes.items())[:2]
        raise ValueError(
            f'{source} holds {one} and {other}: the prefix '
            f'{first or second!r} (of DistributedDataParallel, torch.compile '
            'or similar) stands before some names only; save all of them '
            'without it.'
        )
    return found


def as_tensor(name: str, value: Any, source: object) -> Tensor:
    """Return a value of a state dict as a dense tensor.

    Args:
        name: The name, for errors.
        value: A tensor, or a NumPy array of numbers.
        source: The file, for errors.

    Raises:
        ValueError: It is of another type: a list, a sparse or quantised
            tensor, a tensor without data.
    """
    if isinstance(value, np.ndarray):
        try:
            native = value.dtype.newbyteorder('=')
            return torch.from_numpy(value.astype(native, order='C'))
        except TypeError:
            kind = f'NumPy array of {value.dtype}'
    elif not isinstance(value, Tensor):
        kind = type(value).__name__
    elif value.is_quantized:
        kind = 'quantised tensor'
    elif value.layout != torch.strided:
        kind = f'{_LAYOUT_NAMES.get(value.layout, value.layout)} tensor'
    elif value.is_meta:
        kind = 'tensor without data (on the meta device)'
    else:
        return value
    raise ValueError(
        f'{name} in {source} is a {kind}; expected a tensor of '
        'floating-point numbers.'
    )


def as_weight(name: str, value: Any, source: object) -> Tensor:
    """Return a value of a state dict as a tensor of finite floats.

    Args:
        name: As for :func:`as_tensor`.
        value: As for :func:`as_tensor`.
        source: As for :func:`as_tensor`.

    Raises:
        ValueError: It is of another type, or holds NaN or infinity.
    """
    tensor = as_tensor(name, value, source)
    if not tensor.is_floating_point():
        kind = str(tensor.dtype).removeprefix('torch.')
        raise ValueError(
            f'{name} in {source} is a tensor of {kind}; expected '
            'floating-point numbers.'
        )
    count = int((~torch.isfinite(tensor.float())).sum())
    if count:
        raise ValueError(
            f'{name} in {source} holds {count:,} values that are NaN or '
            'infinite; give an earlier checkpoint.'
        )
    return tensor


def check_head_names(content: Any, source: object) -> None:
    """Refuse a checkpoint of a head whose tensor names are ambiguous.

    mmengine removes ``module.`` from each name by itself; without this check
    one of two tensors with the same name would be lost silently.

    Args:
        content: The unpickled object.
        source: The file, for errors.

    Raises:
        ValueError: See :func:`unwrap` and :func:`match_names`.
    """
    pending, is_head = [content], False
    while pending:
        value = pending.pop()
        if isinstance(value, Mapping):
            names = [bare_name(k) for k in value if isinstance(k, str)]
            is_head |= any(_HEAD_NAME.fullmatch(name) for name in names)
            pending += [value[key] for key in WRAPPERS if key in value]
    if not is_head:
        return
    names = [*unwrap(content, source)]
    bare_names = {bare_name(name) for name in names}
    expected = {name for name in bare_names if _HEAD_NAME.fullmatch(name)}
    match_names(names, expected, source)
