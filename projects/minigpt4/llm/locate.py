# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Locate the LLM's folder, and download it from the Hugging Face hub."""

import os
from pathlib import Path

from ..utils.errors import one_line
from ..weights.check_llm_folder import check_folder
from ..weights.download import is_offline
from ..weights.gguf_header import is_gguf
from ..weights.load_frozen import local_path

LLM_VARIABLE = 'MINIGPT4_LLM'
# files that transformers reads from a repository besides the weights
_SMALL_FILES = ('*.json', '*.model', '*.txt', '*.jinja')


def locate_llm(name_or_path: str) -> str:
    """Return the LLM's folder, or its repository on the Hugging Face hub.

    An existing folder is returned as it is. A GGUF file is converted once;
    see :func:`~.gguf.gguf_folder`. If ``name_or_path`` is the name
    of a hub repository, the environment variable ``MINIGPT4_LLM`` replaces
    it if set.

    Args:
        name_or_path: A folder, a GGUF file, a file of a package
            (``'pypi://...'``), ``'org/name'`` or ``'nano/llm'``.

    Raises:
        ConnectionError: The file of a package cannot be fetched.
        FileNotFoundError: A placeholder or a path that does not exist.
        ImportError: A GGUF file, and the package ``gguf`` is not installed.
        ValueError: The GGUF file is damaged or not supported.
    """
    path = local_path(name_or_path, 'LLM')
    if path is None and os.environ.get(LLM_VARIABLE):
        path = local_path(
            os.environ[LLM_VARIABLE], f'{LLM_VARIABLE}, the LLM,'
        )
        if path is None:
            return os.environ[LLM_VARIABLE]
    if path is None:
        return name_or_path
    if is_gguf(path):
        from .gguf import gguf_folder

        path = gguf_folder(path)
    return str(path)


def download_llm(
    repository: str, folder: 'Path | None' = None, weights: bool = True
) -> str:
    """Download a repository of the Hugging Face hub.

    Args:
        repository: Its name, ``'org/name'``.
        folder: The local folder; by default the hub's cache.
        weights: Whether to download the weights too: the ``*.safetensors``,
            or the ``*.bin`` if there are no others.

    Returns:
        The local folder.

    Raises:
        Exception: Any of huggingface_hub's; they have no common base.
    """
    import huggingface_hub

    if is_offline():
        return huggingface_hub.snapshot_download(
            repository, local_files_only=True
        )
    patterns = [*_SMALL_FILES]
    if weights:
        names = huggingface_hub.list_repo_files(repository)
        has_safetensors = any(n.endswith('.safetensors') for n in names)
        # some repositories have the weights in both formats
        patterns.append('*.safetensors' if has_safetensors else '*.bin')
    return huggingface_hub.snapshot_download(
        repository, allow_patterns=patterns, local_dir=folder
    )


def checked_llm_folder(location: str, weights: bool = True) -> Path:
    """Return the local folder of an LLM after checking it.

    Args:
        location: A result of :func:`locate_llm`: a folder, or the name of a
            hub repository, which is downloaded.
        weights: Whether the weights are needed.

    Raises:
        FileNotFoundError: It cannot be downloaded, or lacks a file.
        ValueError: It names code to run, or one of its files is damaged.
    """
    folder = Path(location)
    if not folder.exists():
        try:
            folder = Path(download_llm(location, weights=weights))
        except Exception as error:  # the hub's errors have no common base
            raise FileNotFoundError(
                f'the LLM {location!r} is no local folder and could not be '
                f'downloaded from a hub ({one_line(error)}); download it and '
                f'name its folder in {LLM_VARIABLE} or in '
                'decoder.name_or_path.'
            ) from error
    check_folder(folder, weights)
    return folder
