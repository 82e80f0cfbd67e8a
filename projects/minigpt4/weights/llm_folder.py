# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Checks of an LLM's folder before transformers reads it: safe, and whole.

Standard library only, so that ``minigpt4 doctor`` can use it where the
package itself cannot be imported.
"""

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ..utils.file_types import read_head
from .file_errors import safetensors_error, weights_file_error
from .folder_code import AGAIN, Fault, code_faults, read_object, shown

_TOKENIZER_FILES = (
    'tokenizer.model',
    'tokenizer.json',
    'vocab.json',
    'vocab.txt',
    'merges.txt',
    'spiece.model',
    'sentencepiece.bpe.model',
)
# transformers looks for them in this order
_WEIGHTS = (
    'model.safetensors',
    'model.safetensors.index.json',
    'pytorch_model.bin',
    'pytorch_model.bin.index.json',
)
# sizes above these are no LLM; building one would take minutes and memory
_LARGEST = dict(
    hidden_size=2**20,
    intermediate_size=2**22,
    vocab_size=2**26,
    num_hidden_layers=1000,
    num_attention_heads=2**14,
)


def check_folder(folder: 'str | Path', weights: bool = True) -> None:
    """Refuse the folder of an LLM that is unsafe or not whole.

    Args:
        folder: The folder.
        weights: Whether weights must be there too.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: The folder wants code of its own, or a file of it is a
            pointer, a web page, cut short, or not a regular file.
    """
    for fault in find_faults(Path(folder), weights):
        raise fault.error()


def find_faults(folder: Path, weights: bool = True) -> Iterator[Fault]:
    """Yield the reasons why a folder of an LLM is refused, the worst first."""
    if not folder.is_dir():
        yield Fault(f'{folder} is no folder', 'give the folder of an LLM')
        return
    yield from code_faults(folder)
    config = folder / 'config.json'
    if not os.path.lexists(config):
        yield Fault(f'{folder} has no config.json', AGAIN, missing=True)
    else:
        yield from _faults_of_config(config)
    yield from _faults_of_tokenizer(folder)
    if weights:
        yield from _faults_of_weights(folder)


def _faults_of_config(path: Path) -> Iterator[Fault]:
    try:
        config = read_object(path)
    except (OSError, ValueError):
        return  # code_faults has named it
    for key, largest in _LARGEST.items():
        value = config.get(key, 1)
        if type(value) is not int or not 0 < value <= largest:
            yield Fault(
                f'{path} has {key} {shown(value)}; expected a whole number '
                f'from 1 to {largest:,}',
                AGAIN,
            )
    if not isinstance(config.get('model_type', ''), str):
        yield Fault(
            f'{path} has model_type {shown(config["model_type"])}; expected '
            'a text',
            AGAIN,
        )


def _faults_of_tokenizer(folder: Path) -> Iterator[Fault]:
    have = [name for name in _TOKENIZER_FILES if (folder / name).is_file()]
    if not have and not any(folder.glob('*.tiktoken')):
        yield Fault(
            f'{folder} has no tokenizer (tokenizer.model or tokenizer.json)',
            'download it again with all its small files',
            missing=True,
        )
    for name in have:
        head = read_head(folder / name)
        found = weights_file_error(head)
        # SentencePiece begins with a field of pieces, tiktoken is text
        if not found and name.endswith('.model') and head[0] != 0x0A:
            if not head.isascii():
                found = 'is not a SentencePiece model', AGAIN
        if found is not None:
            yield Fault(f'{folder / name} {found[0]}', found[1])


def choose_weights(folder: Path) -> str | None:
    """The file of weights, or the index of shards, that is loaded.

    The order is that of transformers, but an index is ignored where all
    of its shards are missing and another format is there: folders may have
    the indices of two formats and the shards of one.

    Args:
        folder: The folder of a model.

    Returns:
        The name of a file of the folder; None where there is none.

    Raises:
        OSError: An index cannot be read.
    """
    have = [name for name in _WEIGHTS if os.path.lexists(folder / name)]
    for name in have:
        if not name.endswith('.index.json'):
            return name
        try:
            shards = read_index(folder / name).values()
        except ValueError:
            return name  # a damaged index is a fault, not ignored
        if any(os.path.lexists(folder / shard) for shard in shards):
            return name
    return next(iter(have), None)


def _faults_of_weights(folder: Path) -> Iterator[Fault]:
    try:
        found = choose_weights(folder)
    except OSError:
        return  # code_faults has named it
    if found is None:
        names = sorted(
            path.name
            for kind in ('*.safetensors', 'pytorch_model*.bin')
            for path in folder.glob(kind)
        )
        reason = (
            f'{names[0]} is there, but no index of shards (*.index.json)'
            if names
            else 'no weights (*.safetensors or pytorch_model*.bin)'
        )
        yield Fault(
            f'the weights of the LLM {folder} cannot be loaded ({reason}'
            f'{_interrupted(folder)})',
            'download its *.safetensors or pytorch_model*.bin whole',
            missing=True,
        )
    elif found.endswith('.index.json'):
        yield from _faults_of_shards(folder, folder / found)
    else:
        yield from _faults_of_file(folder / found)


def _faults_of_shards(folder: Path, index: Path) -> Iterator[Fault]:
    try:
        shards = sorted(set(read_index(index).values()))
    except OSError:
        return  # code_faults has named it
    except ValueError as error:
        what, _, advice = str(error).rstrip('.').partition('; ')
        yield Fault(what, advice)
        return
    missing = [name for name in shards if not os.path.lexists(folder / name)]
    if missing:
        yield Fault(
            f'{folder} lacks {len(missing)} of its {len(shards)} weight '
            f'files, e.g. {missing[0]}{_interrupted(folder)}',
            'download the rest',
            missing=True,
        )
    for name in shards:
        if (folder / name).is_file():
            yield from _faults_of_file(folder / name)
        elif name not in missing:
            yield Fault(f'{folder / name} is not a regular file', AGAIN)


def read_index(path: Path) -> dict[str, str]:
    """Which shard holds each tensor.

    Args:
        path: An index of shards, ``*.index.json``.

    Returns:
        Names of files in the index's own folder, by names of tensors.

    Raises:
        ValueError: It is not an index, or a shard is in another folder.
        OSError: It cannot be read.
    """
    try:
        places = read_object(path).get('weight_map')
    except ValueError as error:
        reason = str(error).removeprefix(f'{path} ')
        raise ValueError(
            f'{path} is no index of shards: it {reason}'
        ) from error
    if not isinstance(places, dict) or not all(
        isinstance(name, str) and name for name in places.values()
    ):
        raise ValueError(f'{path} is no index of shards; {AGAIN}.')
    for name in places.values():
        if name == '..' or PurePosixPath(name).name != name or '\0' in name:
            raise ValueError(
                f'{path} names the shard {shown(name)}, which is not in its '
                f'folder; {AGAIN}.'
            )
    return places


def _faults_of_file(path: Path) -> Iterator[Fault]:
    if not path.is_file():
        return  # code_faults has named it
    if path.suffix == '.safetensors':
        found = safetensors_error(path)
    else:
        head = read_head(path)
        found = weights_file_error(head)
        if not found and head[:2] == b'PK' and not zipfile.is_zipfile(path):
            found = (
                f'is truncated ({path.stat().st_size:,} bytes)',
                'download it again',
            )
    if found is not None:
        yield Fault(f'{path} {found[0]}', found[1])


def _interrupted(folder: Path) -> str:
    """What a download that did not end has left, for a message."""
    for place in (folder, folder / '.cache' / 'huggingface' / 'download'):
        for kind in ('*.incomplete', '*.part', '*.crdownload', '*.aria2'):
            for path in place.glob(kind):
                return f'; an interrupted download left {path.name}'
    return ''
