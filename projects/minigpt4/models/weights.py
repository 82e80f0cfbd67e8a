# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Finding and loading frozen weights: strict, counted, never half right."""

import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlparse

import torch
from mmengine.logging import print_log
from safetensors.torch import load_file
from torch import nn

SHIPPED = Path(__file__).parents[1] / 'nano' / 'weights'
_PLACEHOLDER = re.compile(
    r'your[_ -]?path|path[_/ ]to|please set|^<.*>$|^\.\.\.$', re.IGNORECASE
)


def torch_dtype(name: str) -> torch.dtype:
    """The type of frozen weights.

    Args:
        name: ``'auto'`` or a torch type's name such as ``'bfloat16'``.
            ``'auto'`` is bf16 on a GPU that has it, fp16 on another GPU and
            fp32 on a CPU.

    Raises:
        ValueError: There is no such floating-point type.
    """
    if name == 'auto':
        if not torch.cuda.is_available():
            return torch.float32
        return (
            torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        )
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(
            f'dtype {name!r} is no floating-point type; expected '
            "'auto', 'float32', 'bfloat16' or 'float16'."
        )
    return dtype


def local_path(name: str, what: str) -> Path | None:
    """The local file or folder that a config's name means.

    Args:
        name: A path, ``'nano/...'`` for what the package ships, or the name
            of a hub's repository (``'org/name'``).
        what: What it is, for the error.

    Returns:
        The path, or None where the name can only be a hub's.

    Raises:
        FileNotFoundError: The name is a placeholder, or a path that does not
            exist; such names are never sent to a hub.
    """
    if not name or (_PLACEHOLDER.search(name) and not Path(name).exists()):
        raise FileNotFoundError(
            f'{what} is the placeholder {name!r}; set it to a folder or file '
            'that exists.'
        )
    if name.startswith('nano/') and not Path(name).exists():
        path = SHIPPED / name.removeprefix('nano/')
    else:
        path = Path(name).expanduser()
    if path.exists():
        return path
    if (
        re.fullmatch(r'[\w.-]+/[\w.-]+', name)
        and name[0] not in './~'
        and (not name.startswith('nano/'))
        and path.suffix not in ('.pth', '.pt', '.bin', '.safetensors')
    ):
        return None
    raise FileNotFoundError(
        f'{what} {name!r} does not exist; give the path '
        'of the downloaded weights.'
    )


def read_tensors(source: str) -> dict[str, torch.Tensor]:
    """Read a flat dict of tensors from a file or URL, on the CPU.

    Pickles are read with ``weights_only``. A wrapping key (``model``,
    ``state_dict``, ``module``) is opened.

    Raises:
        FileNotFoundError: There is no such file.
        ConnectionError: The URL cannot be reached.
        ValueError: The file holds no weights.
    """
    if urlparse(source).scheme in ('http', 'https'):
        try:
            tensors = torch.hub.load_state_dict_from_url(
                source, map_location='cpu', weights_only=True
            )
        except OSError as error:
            raise ConnectionError(
                f'{source} could not be fetched ({error}); download it '
                'elsewhere and give its path as checkpoint of the backbone '
                'or the neck.'
            ) from error
    else:
        path = local_path(source, 'checkpoint')
        if path is None or not path.is_file():
            raise FileNotFoundError(
                f'checkpoint {source!r} is no file; give '
                'the path of the downloaded weights.'
            )
        try:
            if path.suffix == '.safetensors':
                tensors = load_file(path)
            else:
                # files of torch below 1.6 are no zip and cannot be mapped
                tensors = torch.load(
                    path,
                    map_location='cpu',
                    weights_only=True,
                    mmap=zipfile.is_zipfile(path),
                )
        except Exception as error:
            size = os.path.getsize(path)
            raise ValueError(
                f'{path} ({size} bytes) cannot be read as weights: it is '
                'truncated, no checkpoint, or a pickle that would run code; '
                f'download it again ({type(error).__name__}).'
            ) from error
    if not isinstance(tensors, dict):
        raise ValueError(
            f'{source} holds a {type(tensors).__name__}; '
            'expected a dict of named tensors.'
        )
    for key in ('model', 'state_dict', 'module'):
        if isinstance(tensors.get(key), dict):
            tensors = tensors[key]
    return tensors


def load_weights(
    module: nn.Module, source: str, select: Callable[[str], str | None]
) -> None:
    """Load frozen weights into a module and report what matched.

    A module on the meta device is left as it is; no file is looked for.

    Args:
        module: The module; every parameter of it must be in the file.
        source: File, URL or ``'nano/...'``.
        select: Maps a name in the file to the module's, or to None for what
            the module does not want.

    Raises:
        ValueError: A parameter is missing or has another shape.
    """
    if any(parameter.is_meta for parameter in module.parameters()):
        return
    tensors, left_over = {}, 0
    for name, tensor in read_tensors(source).items():
        ours = select(name)
        if ours is None:
            left_over += 1
        else:
            tensors[ours] = tensor
    wanted = module.state_dict()
    missing = [name for name in wanted if name not in tensors]
    unknown = [name for name in tensors if name not in wanted]
    misshaped = [
        f'{name} {tuple(tensors[name].shape)} instead of {tuple(want.shape)}'
        for name, want in wanted.items()
        if name in tensors and tensors[name].shape != want.shape
    ]
    for problem, names in (
        ('lacks', missing),
        ('has unknown', unknown),
        ('has misshaped', misshaped),
    ):
        if names:
            raise ValueError(
                f'{source} {problem} {len(names)} of {len(wanted)} tensors '
                f'of {type(module).__name__}, e.g. {names[0]}; is it the '
                'checkpoint of this architecture?'
            )
    module.load_state_dict(tensors)
    print_log(
        f'{type(module).__name__}: {len(wanted)} tensors loaded from '
        f'{source}, {left_over} left over.',
        logger='current',
    )
