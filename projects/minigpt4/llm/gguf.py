# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Convert a GGUF file once to the Hugging Face folder of an LLM.

The folder is kept in ``gguf/`` of the cache folder, so that every other part
of the package sees an ordinary LLM folder. transformers can load GGUF files
too, but 5.17 gives SmolLM2 the end token ``<|im_start|>``, reads the file
several times (SmolLM2-135M: 12.5 s of CPU time, its tokenizer 6.1 s; this
module 2.0 s for both), and its loader differs between the supported versions.
"""

import errno
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from rich.filesize import decimal as format_bytes
from torch import Tensor

from ..utils.atomic import replacing
from ..weights.cache_folder import cache_folder, cache_lock
from ..weights.file_digests import compute_digest, file_digest
from ..weights.gguf_header import GgufHeader, GgufTensor, read_header
from ..weights.hf_folder_files import write_json
from ..weights.http_download import read_json_or_empty
from ..weights.read import LazyTensor
from ..weights.write import write_sharded
from .gguf_config import hugging_face_config, tensor_names
from .gguf_tokenizer import write_tokenizer

RECORD = 'gguf.json'  # in the folder: which file it was made from
# part of the folder's name; raised when the conversion changes
_FORMAT = 1


def gguf_folder(path: Path) -> Path:
    """Return the Hugging Face folder of a GGUF file; convert it if needed.

    Weights become fp16, or keep their type if the file holds them in bf16 or
    fp32. The folder is written completely or not at all, with one tensor in
    memory at a time; another process that needs it waits. A folder that was
    damaged later is converted again.

    Args:
        path: The file.

    Returns:
        A folder with ``config.json``, ``generation_config.json``, the
        tokenizer's files, the weights and :data:`RECORD`.

    Raises:
        ImportError: The package ``gguf`` is not installed.
        OSError: The cache folder cannot be written, e.g. on a full disk.
        ValueError: The file is not a complete GGUF file of a supported
            architecture and tokenizer.
    """
    digest = file_digest(path)
    folder = cache_folder() / 'gguf' / f'{path.stem}-{digest[:12]}-{_FORMAT}'
    if _is_intact(folder):
        return folder
    header = read_header(path)
    config = hugging_face_config(header)
    names = tensor_names(header, config)
    if find_spec('gguf') is None:
        raise ImportError(
            f'{path} is a GGUF file, which needs the package gguf; run: '
            "pip install 'minigpt4[small]'"
        )
    with cache_lock(folder, 'converts'):
        if _is_intact(folder):  # by the other process
            return folder
        if folder.exists():
            print_log(
                f'{folder} is damaged; it is converted again',
                logger='current',
                level=logging.WARNING,
            )
            shutil.rmtree(folder)
        tensors = dict(_tensors(header, config, names))
        size = sum(tensor.nbytes for tensor in tensors.values())
        print_log(
            f'{path}: converting it once to {folder} ({format_bytes(size)})',
            logger='current',
        )
        free = shutil.disk_usage(folder.parent).free
        if size > free:
            raise OSError(
                errno.ENOSPC,
                f'{format_bytes(size)} needed, {format_bytes(free)} free',
            )
        began = time.monotonic()
        with replacing(folder) as temporary:
            temporary.mkdir()
            write_tokenizer(header, temporary)
            write_json(temporary / 'config.json', config)
            ids = {k: v for k, v in config.items() if k.endswith('_token_id')}
            write_json(temporary / 'generation_config.json', ids)
            write_sharded(temporary, tensors, progress=path.name)
            record = dict(
                file=path.name,
                size=path.stat().st_size,
                sha256=digest,
                files={
                    file.name: compute_digest(file)
                    for file in sorted(temporary.iterdir())
                },
            )
            write_json(temporary / RECORD, record)
        _is_intact(folder)  # stores the digests for the next use
        print_log(
            f'{path}: converted in {time.monotonic() - began:.1f} s',
            logger='current',
        )
    return folder


def _is_intact(folder: Path) -> bool:
    """Whether a folder has all files of its conversion, unchanged.

    Digests of files whose size and time have not changed are not computed
    again.
    """
    files = read_json_or_empty(folder / RECORD).get('files') or {}
    return len(files) > 0 and all(
        (folder / name).is_file() and file_digest(folder / name) == digest
        for name, digest in files.items()
    )


def _tensors(
    header: GgufHeader, config: dict[str, Any], names: dict[str, str]
) -> Iterator[tuple[str, LazyTensor]]:
    """Yield the tensors by their Hugging Face names.

    Args:
        header: The file's header.
        config: Its Hugging Face config.
        names: Hugging Face names by the names in the file.
    """
    dtype = getattr(torch, config['torch_dtype'])
    data = np.memmap(header.path, mode='r', dtype=np.uint8)
    for name, hf_name in names.items():
        tensor = header.tensors[name]
        heads = None
        if config['model_type'] == 'llama':
            # llama.cpp keeps the two halves of a rotary pair side by side
            if '.attn_q.' in name:
                heads = config['num_attention_heads']
            elif '.attn_k.' in name:
                heads = config['num_key_value_heads']
        lazy = LazyTensor(
            tensor.shape, torch.float32, _reader(data, tensor, heads)
        )
        yield hf_name, lazy.to(dtype, f'{name} in {header.path}')


def _reader(
    data: np.ndarray, tensor: GgufTensor, heads: int | None
) -> Callable[[], Tensor]:
    """Return a function that reads a tensor as float32.

    Args:
        data: The bytes of the file.
        tensor: The tensor.
        heads: Number of heads of a matrix whose rows are in the order of
            llama.cpp; None for others.
    """

    def read() -> Tensor:
        from gguf import GGMLQuantizationType
        from gguf.quants import dequantize

        raw = data[tensor.offset : tensor.offset + tensor.n_bytes]
        blocks = raw.reshape(*tensor.shape[:-1], -1)
        values = dequantize(blocks, GGMLQuantizationType(tensor.type_number))
        result = torch.from_numpy(
            np.array(values, dtype=np.float32).reshape(tensor.shape)
        )
        if heads is not None:
            rows, *columns = result.shape
            halves = result.reshape(heads, rows // heads // 2, 2, *columns)
            result = halves.transpose(1, 2).reshape(rows, *columns)
        return result

    return read
