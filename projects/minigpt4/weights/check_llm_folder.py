# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Check that an LLM folder is safe and complete, before transformers reads it.

Standard library only, so that ``minigpt4 doctor`` can use it where the
package itself cannot be imported.
"""

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

from ..utils.file_types import read_head
from .file_errors import safetensors_error, weights_file_error
from .hf_folder_files import (
    AGAIN,
    choose_weights,
    display_text,
    read_index,
    read_json,
)
from .hf_folder_safety import Fault, find_unsafe_files

_TOKENIZER_FILES = (
    'tokenizer.model',
    'tokenizer.json',
    'vocab.json',
    'vocab.txt',
    'merges.txt',
    'spiece.model',
    'sentencepiece.bpe.model',
)
# No LLM has larger sizes; building one would take minutes and much memory.
_MAX_SIZES = dict(
    hidden_size=2**20,
    intermediate_size=2**22,
    vocab_size=2**26,
    num_hidden_layers=1000,
    num_attention_heads=2**14,
)


def check_folder(folder: 'str | Path', weights: bool = True) -> None:
    """Refuse an LLM folder that is unsafe or incomplete.

    Args:
        folder: The folder.
        weights: Whether to check the weights too.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: The folder names code to run, or a file is a Git LFS
            pointer, a web page, truncated, or not a regular file.
    """
    for fault in find_faults(Path(folder), weights):
        raise fault.error()


def find_faults(
    folder: Path, weights: bool = True, tokenizer: bool = True
) -> Iterator[Fault]:
    """Yield the reasons to refuse an LLM folder, the worst first.

    Args:
        folder: The folder.
        weights: Whether to check the weights too.
        tokenizer: Whether to check the tokenizer, which a vision model does
            not have.
    """
    what = 'the LLM' if tokenizer else 'the vision model'
    if not folder.is_dir():
        yield Fault(f'{folder} is no folder', f'give the folder of {what}')
        return
    yield from find_unsafe_files(folder)
    config = folder / 'config.json'
    if not os.path.lexists(config):
        yield Fault(f'{folder} has no config.json', AGAIN, missing=True)
    else:
        yield from _check_config(config)
    if tokenizer:
        yield from _check_tokenizer(folder)
    if weights:
        yield from _check_weights(folder, what)


def _check_config(path: Path) -> Iterator[Fault]:
    try:
        config = read_json(path)
    except (OSError, ValueError):
        return  # find_unsafe_files has reported it
    for key, largest in _MAX_SIZES.items():
        value = config.get(key, 1)
        if type(value) is not int or not 0 < value <= largest:
            yield Fault(
                f'{path} has {key} {display_text(value)}; expected an integer '
                f'from 1 to {largest:,}',
                AGAIN,
            )
    if not isinstance(config.get('model_type', ''), str):
        yield Fault(
            f'{path} has model_type {display_text(config["model_type"])}; '
            'expected a string',
            AGAIN,
        )


def _check_tokenizer(folder: Path) -> Iterator[Fault]:
    names = [n for n in _TOKENIZER_FILES if (folder / n).is_file()]
    if not names and not any(folder.glob('*.tiktoken')):
        yield Fault(
            f'{folder} has no tokenizer (tokenizer.model or tokenizer.json)',
            'download it again with all its small files',
            missing=True,
        )
    for name in names:
        head = read_head(folder / name)
        found = weights_file_error(head)
        # the first byte of SentencePiece models is a field tag; tiktoken's
        # files are text
        if not found and name.endswith('.model') and head[0] != 0x0A:
            if not head.isascii():
                found = 'is not a SentencePiece model', AGAIN
        if found is not None:
            yield Fault(f'{folder / name} {found[0]}', found[1])


def _check_weights(folder: Path, what: str) -> Iterator[Fault]:
    try:
        name = choose_weights(folder)
    except OSError:
        return  # find_unsafe_files has reported it
    if name is None:
        names = sorted(
            path.name
            for pattern in ('*.safetensors', 'pytorch_model*.bin')
            for path in folder.glob(pattern)
        )
        reason = (
            f'{names[0]} is there, but no index of shards (*.index.json)'
            if names
            else 'no weights (*.safetensors or pytorch_model*.bin)'
        )
        yield Fault(
            f'the weights of {what} {folder} cannot be loaded ({reason}'
            f'{_interrupted_download(folder)})',
            'download its complete *.safetensors or pytorch_model*.bin',
            missing=True,
        )
    elif name.endswith('.index.json'):
        yield from _check_shards(folder, folder / name)
    else:
        yield from _check_weight_file(folder / name)


def _check_shards(folder: Path, index: Path) -> Iterator[Fault]:
    try:
        shards = sorted(set(read_index(index).values()))
    except OSError:
        return  # find_unsafe_files has reported it
    except ValueError as error:
        yield Fault.from_error(error)
        return
    missing = [name for name in shards if not os.path.lexists(folder / name)]
    if missing:
        yield Fault(
            f'{folder} lacks {len(missing)} of its {len(shards)} weight '
            f'files, e.g. {missing[0]}{_interrupted_download(folder)}',
            'download the rest',
            missing=True,
        )
    for name in shards:
        if (folder / name).is_file():
            yield from _check_weight_file(folder / name)
        elif name not in missing:
            yield Fault(f'{folder / name} is not a regular file', AGAIN)


def _check_weight_file(path: Path) -> Iterator[Fault]:
    if not path.is_file():
        return  # find_unsafe_files has reported it
    if path.suffix == '.safetensors':
        found = safetensors_error(path)
    else:
        head = read_head(path)
        found = weights_file_error(head)
        if not found and head[:2] == b'PK' and not zipfile.is_zipfile(path):
            found = f'is truncated ({path.stat().st_size:,} bytes)', AGAIN
    if found is not None:
        yield Fault(f'{path} {found[0]}', found[1])


def _interrupted_download(folder: Path) -> str:
    """Name a file that an interrupted download has left, for a message."""
    for parent in (folder, folder / '.cache' / 'huggingface' / 'download'):
        for pattern in ('*.incomplete', '*.part', '*.crdownload', '*.aria2'):
            for path in parent.glob(pattern):
                return f'; an interrupted download left {path.name}'
    return ''
