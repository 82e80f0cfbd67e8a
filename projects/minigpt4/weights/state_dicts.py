# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Named tensors in what others save: wrapping dicts, prefixes, NumPy arrays.

``get_model``, ``load_from``, ``--pretrained`` and ``minigpt4 convert`` all
read state dicts through these functions, so that they agree.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

# what others wrap a state dict in: mmengine, MiniGPT-4 and LAVIS, DeepSpeed,
# training loops of their own
WRAPPERS = (
    'state_dict',
    'model',
    'module',
    'model_state_dict',
    'model_state',
    'net',
)
# what DataParallel, torch.compile, DeepSpeed, Lightning and peft put in front
# of all names
_PREFIX = re.compile(
    r'^(?:(?:module|_orig_mod|_forward_module|model|base_model\.model)\.)+'
)
# what torch.compile, FSDP and activation checkpointing put within names
_WITHIN = re.compile(
    r'(?<=\.)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.'
)
_HEAD_NAME = re.compile(r'(?:head\.layers\.\d+|llama_proj)\.(?:weight|bias)')
_SHOWN_TYPE = {
    torch.sparse_coo: 'sparse',
    torch.sparse_csr: 'sparse',
    torch.sparse_csc: 'sparse',
    torch.sparse_bsr: 'sparse',
    torch.sparse_bsc: 'sparse',
}


def check_names(content: Any, source: object, where: str = '') -> None:
    """Refuse what is not a dict whose names are texts.

    Args:
        content: What was unpickled.
        source: The file, for errors.
        where: Where in the file, e.g. `` under 'model'``, for errors.

    Raises:
        ValueError: It is not a dict, or a name is not a text.
    """
    if not isinstance(content, Mapping):
        raise ValueError(
            f'{source} holds a {type(content).__name__}{where}; expected '
            'a dict of named tensors.'
        )
    odd = next((key for key in content if not isinstance(key, str)), None)
    if odd is not None:
        raise ValueError(
            f'{source} has a name that is no text ({odd!r}){where}; '
            'expected a dict of named tensors.'
        )


def unwrap(content: Any, source: object) -> Mapping[str, Any]:
    """The dict of named tensors in what a file holds.

    Args:
        content: What was unpickled: a state dict, or one under one or more
            of ``WRAPPERS``.
        source: The file, for errors.

    Returns:
        The innermost dict; its values may be anything.

    Raises:
        ValueError: It is no dict, a name is no text, or there are two state
            dicts.
    """
    where = ''
    while True:
        check_names(content, source, where)
        wrapped = [key for key in WRAPPERS if key in content]
        if not wrapped or any(isinstance(v, Tensor) for v in content.values()):
            return content
        filled = [key for key in wrapped if _holds_tensors(content[key])]
        if len(filled) > 1 or (filled and filled[0] != wrapped[0]):
            raise ValueError(
                f'{source} holds weights under more than one of '
                f'{", ".join(wrapped)}{where}; save the one that is meant.'
            )
        key = filled[0] if filled else wrapped[0]
        content = content[key]
        where = f' under {key!r}'


def _holds_tensors(content: Any) -> bool:
    return isinstance(content, Mapping) and any(
        isinstance(value, (Tensor, np.ndarray))
        or (key in WRAPPERS and _holds_tensors(value))
        for key, value in content.items()
    )


def bare_name(name: str) -> str:
    """A name without what wrapping modules put before and into it."""
    return _PREFIX.sub('', _WITHIN.sub('', name))


def match_names(
    names: Iterable[str], wanted: Collection[str], source: object
) -> dict[str, str]:
    """Which name in a file means each of the wanted ones.

    A prefix is taken off only where all wanted names of the file have it.

    Args:
        names: The names in the file.
        wanted: The names without prefixes.
        source: The file, for errors.

    Returns:
        Names in the file, by wanted names; what is not there is left out.

    Raises:
        ValueError: A wanted name is there twice, or a prefix stands before
            some of them only.
    """
    found: dict[str, str] = {}
    prefixes: dict[str, str] = {}
    for name in names:
        bare = name if name in wanted else bare_name(name)
        if bare not in wanted:
            continue
        if bare in found:
            raise ValueError(
                f'{source} holds both {found[bare]} and {name}, which are one '
                'tensor with and without a prefix; save the one that is meant.'
            )
        found[bare] = name
        within = _WITHIN.sub('', name)
        prefixes.setdefault(within[: len(within) - len(bare)], name)
    if len(prefixes) > 1:
        (first, one), (second, other) = list(prefixes.items())[:2]
        raise ValueError(
            f'{source} holds {one} and {other}: the prefix '
            f'{first or second!r} (of DistributedDataParallel, torch.compile '
            'or the like) stands before some names only; save all of them '
            'without it.'
        )
    return found


def as_tensor(name: str, value: Any, source: object) -> Tensor:
    """A plain tensor of what a file holds under a name.

    Args:
        name: The name, for errors.
        value: A tensor, or a NumPy array of numbers.
        source: The file, for errors.

    Raises:
        ValueError: It is something else: a list, a sparse or quantised
            tensor, one without data.
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
        kind = f'{_SHOWN_TYPE.get(value.layout, value.layout)} tensor'
    elif value.is_meta:
        kind = 'tensor without data (on the meta device)'
    else:
        return value
    raise ValueError(
        f'{name} in {source} is a {kind}; expected a tensor of '
        'floating-point numbers.'
    )


def as_weight(name: str, value: Any, source: object) -> Tensor:
    """As :func:`as_tensor`, of floating-point numbers that are all finite.

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
    odd = int((~torch.isfinite(tensor.float())).sum())
    if odd:
        raise ValueError(
            f'{name} in {source} holds {odd:,} values that are NaN or '
            'infinite; give an earlier checkpoint.'
        )
    return tensor


def check_head_names(content: Any, source: object) -> None:
    """Refuse a head's file whose names have two meanings.

    mmengine takes ``module.`` off each name on its own; without this check
    two tensors of one name would become one without a word.

    Args:
        content: What was unpickled.
        source: The file, for errors.

    Raises:
        ValueError: See :func:`unwrap` and :func:`match_names`.
    """
    waiting, is_head = [content], False
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            names = [bare_name(k) for k in value if isinstance(k, str)]
            is_head |= any(_HEAD_NAME.fullmatch(name) for name in names)
            waiting += [value[key] for key in WRAPPERS if key in value]
    if not is_head:
        return
    names = [*unwrap(content, source)]
    wanted = {bare_name(name) for name in names}
    match_names(names, {n for n in wanted if _HEAD_NAME.fullmatch(n)}, source)
