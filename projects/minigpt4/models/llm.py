# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Finding and loading the LLM: its files, its type, bits and places.

Weights that lie on disk in the wanted type are memory-mapped and cost a CPU
no memory of its own; others are converted tensor by tensor. There are never
two copies.
"""

import inspect
import logging
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from mmengine import dist

from .. import compat
from .llama_tokenizer import load_llama_tokenizer
from .tokenizer_files import tokenizer_folder
from .weights import local_path, torch_dtype

LLM_VARIABLE = 'MINIGPT4_LLM'
# rows that are appended to a vocabulary without making it another LLM: the
# [PAD] of a merged Vicuna v0 (32,001 rows), padding to a multiple of 64
SPARE_ROWS = 64
_SPREAD = ('auto', 'balanced', 'balanced_low_0', 'sequential')


def locate_llm(name_or_path: str) -> str:
    """Where the LLM lies: a folder, or a hub's repository.

    A folder that exists is taken as it is. For the name of a hub's
    repository the environment variable ``MINIGPT4_LLM`` is used instead
    where it is set.

    Raises:
        FileNotFoundError: A placeholder or a path that does not exist.
    """
    path = local_path(name_or_path, 'LLM')
    if path is None and os.environ.get(LLM_VARIABLE):
        path = local_path(
            os.environ[LLM_VARIABLE], f'{LLM_VARIABLE}, the LLM,'
        )
        if path is None:
            return os.environ[LLM_VARIABLE]
    return name_or_path if path is None else str(path)


def load_tokenizer(name_or_path: str):
    """The LLM's tokenizer; special tokens in a text are letters to it.

    Raises:
        FileNotFoundError: There is no such LLM, or it cannot be fetched.
        ValueError: A LLaMA folder's tokens would not be SentencePiece's.
    """
    from transformers import AutoTokenizer

    where = locate_llm(name_or_path)
    folder = tokenizer_folder(where)
    tokenizer = None if folder is None else load_llama_tokenizer(folder)
    if tokenizer is not None:
        return tokenizer
    try:
        tokenizer = AutoTokenizer.from_pretrained(where)
    except OSError as error:
        raise _not_fetched(where) from error
    tokenizer.split_special_tokens = True
    return tokenizer


def _not_fetched(where: str) -> FileNotFoundError:
    return FileNotFoundError(
        f'the LLM {where!r} is no local folder and could not be fetched from '
        f'a hub; download it and name its folder in {LLM_VARIABLE} or in '
        'decoder.name_or_path.'
    )


def build_empty(arch: dict | None, dtype: str):
    """An LLM without weights, on the meta device.

    Args:
        arch: Keyword arguments of its Hugging Face config.
        dtype: ``'auto'`` or the name of a type.

    Raises:
        ValueError: There is no ``arch``.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    if arch is None:
        raise ValueError(
            'an LLM on the meta device has no files; give '
            'its Hugging Face config as decoder.arch.'
        )
    config = AutoConfig.for_model(**arch)
    return AutoModelForCausalLM.from_config(
        config, **compat.dtype_argument(torch_dtype(dtype))
    )


def load_llm(
    where: str,
    arch: dict | None = None,
    dtype: str = 'auto',
    quantization: dict | None = None,
    device_map: str | dict | None = None,
    max_memory: dict | None = None,
):
    """Load a causal LM; see :class:`LLMDecoder` for the arguments.

    Raises:
        FileNotFoundError: It cannot be fetched.
        ImportError: A library for quantisation or placement is missing.
        RuntimeError: The libraries cannot quantise without a GPU.
        ValueError: It is another LLM than ``arch``, lacks tensors, or cannot
            be quantised or placed as asked.
    """
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        GenerationConfig,
    )

    try:
        config = AutoConfig.from_pretrained(where)
    except OSError as error:
        raise _not_fetched(where) from error
    check_arch(where, config, arch or {})
    if dtype == 'auto' and not torch.cuda.is_available():
        dtype = 'bfloat16' if _size_on_disk(where) > 2e9 else 'float32'
    arguments: dict = dict(attn_implementation='sdpa')
    arguments |= compat.dtype_argument(torch_dtype(dtype))
    arguments |= _placement(device_map, max_memory)
    arguments |= _bits(where, config, quantization, torch_dtype(dtype))
    load: Any = AutoModelForCausalLM.from_pretrained
    try:
        llm, report = load(where, output_loading_info=True, **arguments)
    except OSError as error:
        reason = str(error).splitlines()[0] if str(error) else ''
        raise FileNotFoundError(
            f'the weights of the LLM {where} cannot be loaded ({reason}); '
            'download its *.safetensors or pytorch_model*.bin whole.'
        ) from error
    missing = sorted(report['missing_keys'])
    if missing:
        raise ValueError(
            f'{where} lacks {len(missing)} tensors of the LLM, e.g. '
            f'{missing[0]}; is it a complete model (a Vicuna delta has to '
            'be merged first)?'
        )
    # the folder's own sampling settings would mix with ours
    llm.generation_config = GenerationConfig()
    return llm


def check_arch(where: str, config: Any, arch: dict) -> None:
    """Refuse another LLM than the config expects.

    Up to ``SPARE_ROWS`` more rows of vocabulary are the same LLM.

    Raises:
        ValueError: A setting differs.
    """
    for key, want in arch.items():
        found = getattr(config, key, None)
        if key == 'vocab_size' and isinstance(found, int):
            if want <= found <= want + SPARE_ROWS:
                continue
        if found != want:
            raise ValueError(
                f'the LLM in {where} has {key} {found}, but the config '
                f'expects {want}; give the LLM that the config names, or '
                'set decoder.arch=None together with a projection that '
                'was trained for your LLM.'
            )


def _size_on_disk(where: str) -> int:
    files = (
        file
        for pattern in ('*.safetensors', '*.bin')
        for file in Path(where).glob(pattern)
    )
    return sum(file.stat().st_size for file in files)


def _need(library: str, what: str) -> None:
    if find_spec(library) is None:
        raise ImportError(
            f'{what} needs {library}, which is not installed; run: '
            "pip install 'minigpt4[quant]'"
        )


def _placement(device_map: str | dict | None, max_memory: dict | None) -> dict:
    """What ``from_pretrained`` is told about devices."""
    if device_map is None:
        if max_memory is not None:
            raise ValueError(
                'decoder.max_memory says how much of the LLM each device '
                "takes, which needs decoder.device_map, e.g. 'auto'."
            )
        return {}
    _need('accelerate', f'decoder.device_map={device_map!r}')
    if isinstance(device_map, str) and device_map not in _SPREAD:
        raise ValueError(
            f'decoder.device_map is {device_map!r}; expected one of '
            f'{", ".join(_SPREAD)}, or a dict of modules and devices.'
        )
    if dist.get_world_size() > 1:
        raise ValueError(
            'decoder.device_map spreads one LLM over the GPUs of one process, '
            f'but there are {dist.get_world_size()}; start one process, or '
            'share the LLM out with decoder.shard=True.'
        )
    if isinstance(device_map, dict):
        device_map = dict(device_map)  # not mmengine's ConfigDict
    max_memory = None if max_memory is None else dict(max_memory)
    return dict(device_map=device_map, max_memory=max_memory)


def _bits(
    where: str, config: Any, quantization: dict | None, dtype: torch.dtype
) -> dict:
    """What ``from_pretrained`` is told about quantisation."""
    theirs = getattr(config, 'quantization_config', None)
    if theirs is not None:
        theirs = theirs if isinstance(theirs, dict) else theirs.to_dict()
        method = str(theirs.get('quant_method'))
        if 'bitsandbytes' not in method:
            # torchao's dynamic int8, for one, gives a gradient of nonsense
            # without any error
            raise ValueError(
                f'the LLM in {where} is quantised with {method}, whose '
                'gradients are not known to be right; give the unquantised '
                'LLM, with decoder.quantization=dict(load_in_8bit=True).'
            )
        if quantization is not None:
            raise ValueError(
                f'the LLM in {where} is quantised already; leave '
                'decoder.quantization out.'
            )
    elif quantization is None:
        return {}
    _need('accelerate', 'a quantised LLM')
    _need('bitsandbytes', 'a quantised LLM')
    if not (torch.cuda.is_available() or compat.quantises_on_cpu()):
        raise RuntimeError(
            'a quantised LLM needs a GPU, or transformers 5 or newer; run: '
            "pip install 'transformers>=5'"
        )
    # in bf16 and fp32 each 8-bit layer warns in each call that its input
    # passes through fp16
    logging.getLogger('bitsandbytes.autograd._functions').setLevel(
        logging.ERROR
    )
    if quantization is None:
        return {}
    from transformers import BitsAndBytesConfig

    known = inspect.signature(BitsAndBytesConfig).parameters
    unknown = [key for key in quantization if key not in known]
    bits = [quantization.get(f'load_in_{n}bit', False) for n in (4, 8)]
    if unknown or sum(bits) != 1:
        raise ValueError(
            f'decoder.quantization is {dict(quantization)}; expected '
            'load_in_8bit=True or load_in_4bit=True and other arguments of '
            'BitsAndBytesConfig'
            + (f' ({", ".join(unknown)} is unknown).' if unknown else '.')
        )
    # nf4 is nearer to the unquantised gradient than the library's fp4
    ours = dict(bnb_4bit_compute_dtype=dtype, bnb_4bit_quant_type='nf4')
    return dict(quantization_config=BitsAndBytesConfig(**ours | quantization))
