# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Read local checkpoints for mmengine: pickles and safetensors."""

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.runner import CheckpointLoader

from ..utils.regular_files import open_regular
from .checksum import check_all
from .pickles import is_safetensors, load_pickle
from .read import open_tensors
from .state_dicts import SOURCE, check_head_names, check_names


class CheckpointError(ValueError):
    """A file is not a checkpoint that can be loaded or resumed."""


def register_loaders() -> None:
    """Make mmengine read local checkpoints with :func:`load_from_local`.

    Then ``load_from``, ``--resume``, ``tools/test.py`` and ``get_model`` read
    safetensors too, never run code of a pickle, and name a damaged file.
    """
    CheckpointLoader.register_scheme('', load_from_local, force=True)


def load_from_local(filename: str, map_location: Any = None) -> dict:
    """Read a checkpoint; replaces mmengine's function.

    Args:
        filename: A ``.safetensors`` file, which holds only a state dict, or a
            pickle of PyTorch.
        map_location: As for ``torch.load``; safetensors stay on the CPU.

    Returns:
        The content of the file; for safetensors a dict with the state dict
        under ``'state_dict'``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no checkpoint, is damaged, or would run code.
        ChecksumError: It differs from its checksum.
    """
    path = Path(filename).expanduser()
    if not path.exists():
        raise FileNotFoundError(
            f'the checkpoint {filename} does not exist; give the path of a '
            'file.'
        )
    open_regular(path).close()  # not a folder, a FIFO or a device
    if is_safetensors(path):
        tensors = open_tensors(path)
        # copies: the file may be replaced while the model is in use
        state = {name: t.read().clone() for name, t in tensors.items()}
        check_head_names(state, path)
        return dict(state_dict=_with_source(state, path))
    content = load_pickle(path, map_location)
    state = content.get('state_dict', content)
    where = '' if state is content else ' under state_dict'
    check_names(state, path, where)
    check_head_names(content, path)
    check_all(content, str(path))
    if state is content:
        return _with_source(content, path)
    return dict(content, state_dict=_with_source(state, path))


def read_checkpoint(path: 'str | Path', device: Any = 'cpu') -> dict:
    """Read a checkpoint as :func:`load_from_local` does.

    Args:
        path: The file.
        device: ``map_location`` of ``torch.load``.

    Raises:
        CheckpointError: It is damaged, is no checkpoint or would run code.
        OSError: It is missing or cannot be read.
    """
    try:
        return load_from_local(str(path), device)
    except ValueError as error:
        raise CheckpointError(str(error)) from error


def _with_source(state: Mapping, path: Path) -> OrderedDict:
    """Add the file name to a state dict's metadata, for errors on loading."""
    result = OrderedDict(state)
    metadata = OrderedDict(getattr(state, '_metadata', {}))
    metadata[''] = dict(metadata.get('', {}), **{SOURCE: str(path)})
    result._metadata = metadata  # type: ignore[attr-defined]
    return result
