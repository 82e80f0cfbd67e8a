# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Load the LLM and its tokenizer from a checked folder.

Weights that have the requested type in the file are memory-mapped, so that
they need no memory of the process; others are converted tensor by tensor.
There are never two copies. No code of the folder is run; see
:mod:`~minigpt4.weights.check_llm_folder`.
"""

import logging
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from sentencepiece import SentencePieceProcessor

from .. import compat
from ..utils.errors import one_line
from ..utils.file_types import read_head
from ..weights.file_errors import pickled_code
from ..weights.hf_folder_files import choose_weights
from ..weights.load_frozen import torch_dtype
from .llama_tokenizer import load_llama_tokenizer
from .load_options import placement_options, quantization_options
from .locate import checked_llm_folder, locate_llm
from .tokenizer_files import read_settings

# A vocabulary with this many more rows is of the same LLM: the [PAD] of a
# merged Vicuna v0 (32,001 rows), or padding to a multiple of 64.
EXTRA_VOCAB_ROWS = 64
# Above this size on disk a CPU loads the LLM in bf16 instead of fp32.
_LARGE_BYTES = 2e9


def load_tokenizer(name_or_path: str) -> Any:
    """Load the LLM's tokenizer, for which special tokens are plain text.

    Args:
        name_or_path: As for :func:`~.locate.locate_llm`.

    Returns:
        A tokenizer of transformers.

    Raises:
        FileNotFoundError: There is no such LLM, or it cannot be downloaded.
        ValueError: The folder is refused, its tokenizer cannot be loaded, or
            the token ids of a LLaMA folder would not be SentencePiece's.
    """
    from transformers import AutoTokenizer

    folder = checked_llm_folder(locate_llm(name_or_path), weights=False)
    tokenizer = load_llama_tokenizer(folder)
    if tokenizer is not None:
        return tokenizer
    model_file = folder / 'tokenizer.model'
    try:
        if model_file.is_file() and read_head(model_file)[0] == 0x0A:
            # for a damaged file transformers would ask for tiktoken
            SentencePieceProcessor(model_file=str(model_file))
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder), trust_remote_code=False
        )
    except Exception as error:  # tokenizers raises bare Exceptions
        raise ValueError(
            f'the tokenizer in {folder} cannot be loaded '
            f'({_describe(error)}); download its tokenizer.model or '
            'tokenizer.json and tokenizer_config.json again.'
        ) from error
    tokenizer.split_special_tokens = True
    return tokenizer


def load_config(folder: Path) -> Any:
    """Load the Hugging Face config of a checked folder; runs no code of it.

    Args:
        folder: A folder without faults; see
            :func:`~minigpt4.weights.check_llm_folder.check_folder` and
            :func:`~minigpt4.weights.hf_folder_safety.find_unsafe_files`.

    Raises:
        ValueError: transformers cannot read it, or does not know its type.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:  # its validators raise types of their own
        raise ValueError(
            f'{folder / "config.json"} is no config that '
            f'{compat.transformers_name()} reads ({_describe(error)}); '
            'download it again, or update transformers if the model is newer.'
        ) from error


def _describe(error: BaseException) -> str:
    """Describe an error of transformers in one line."""
    code = pickled_code(str(error))
    if code is not None:
        return f'a pickle that would run code, {code}, which is refused'
    return f'{type(error).__name__}: {one_line(error).rstrip(".")}'


def build_empty(arch: dict | None, dtype: str) -> Any:
    """Build an LLM without weights, under ``torch.device('meta')``.

    Args:
        arch: Keyword arguments of its Hugging Face config.
        dtype: ``'auto'`` or the name of a type.

    Returns:
        A causal LM of transformers.

    Raises:
        ValueError: ``arch`` is None.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    if arch is None:
        raise ValueError(
            'an LLM on the meta device has no files; give '
            'its Hugging Face config as decoder.arch.'
        )
    # a kernel that the config names would be downloaded and run
    arch = {k: v for k, v in arch.items() if 'attn_implementation' not in k}
    config = AutoConfig.for_model(**arch)
    return AutoModelForCausalLM.from_config(
        config,
        trust_remote_code=False,
        **compat.dtype_argument(torch_dtype(dtype)),
    )


def load_llm(
    location: str,
    arch: dict | None = None,
    dtype: str = 'auto',
    quantization: dict | None = None,
    device_map: str | dict | None = None,
    max_memory: dict | None = None,
) -> Any:
    """Load a causal LM.

    Args:
        location: A result of :func:`~.locate.locate_llm`.
        arch: As for :class:`~minigpt4.models.decoder.LLMDecoder`, like the
            arguments that follow.
        dtype: Type of the weights.
        quantization: Arguments of ``BitsAndBytesConfig``.
        device_map: Placement over several devices.
        max_memory: Memory to use of each device.

    Returns:
        A causal LM of transformers.

    Raises:
        FileNotFoundError: It cannot be downloaded, or lacks a file.
        ImportError: A library for quantisation or placement is missing.
        RuntimeError: The libraries cannot quantise without a GPU.
        ValueError: It names code to run, is damaged, is another LLM than
            ``arch``, lacks tensors, or cannot be quantised or placed as
            requested.
    """
    from transformers import AutoModelForCausalLM, GenerationConfig

    folder = checked_llm_folder(location)
    config = load_config(folder)
    check_arch(location, config, arch or {})
    if dtype == 'auto' and not torch.cuda.is_available():
        dtype = (
            'bfloat16' if _size_on_disk(folder) > _LARGE_BYTES else 'float32'
        )
    arguments: dict = dict(
        attn_implementation='sdpa',
        trust_remote_code=False,
        ignore_mismatched_sizes=True,  # refused below, with their names
    )
    if str(choose_weights(folder)).startswith('pytorch_model'):
        arguments['use_safetensors'] = False
    arguments |= compat.dtype_argument(torch_dtype(dtype))
    arguments |= placement_options(device_map, max_memory)
    arguments |= quantization_options(
        location, config, quantization, torch_dtype(dtype)
    )
    load: Any = AutoModelForCausalLM.from_pretrained
    try:
        llm, report = load(str(folder), output_loading_info=True, **arguments)
    except (ImportError, MemoryError, torch.OutOfMemoryError):
        raise
    except OSError as error:
        raise FileNotFoundError(
            f'the weights of the LLM {location} cannot be loaded '
            f'({one_line(error)}); download its complete *.safetensors or '
            'pytorch_model*.bin.'
        ) from error
    except Exception as error:  # damaged weights may raise anything
        raise ValueError(
            f'the weights of the LLM {location} cannot be loaded '
            f'({_describe(error)}); are they of the model that its '
            'config.json describes? Else download them again.'
        ) from error
    misshaped = sorted(report['mismatched_keys'])
    misshaped_names = {name for name, *_ in misshaped}
    missing = sorted({*report['missing_keys']} - misshaped_names)
    if missing:
        raise ValueError(
            f'{location} lacks {len(missing)} tensors of the LLM, e.g. '
            f'{missing[0]}; is it a complete model (a Vicuna delta has to '
            'be merged first)?'
        )
    if misshaped:
        name, found, expected = misshaped[0]
        raise ValueError(
            f'the weights of the LLM {location} have another size than its '
            f'config.json says: {name} is {tuple(found)} in the weights and '
            f'{tuple(expected)} by config.json ({len(misshaped)} such '
            'tensors); give the config.json of these weights.'
        )
    unused = sorted(report['unexpected_keys'])
    unused = [name for name in unused if not name.endswith('inv_freq')]
    if unused:
        print_log(
            f'{location} holds {len(unused)} tensors that its config.json has '
            f'no use for, e.g. {unused[0]}; they are omitted.',
            logger='current',
            level=logging.WARNING,
        )
    compat.keep_gradients_of_4bit(llm)
    # the folder's own sampling settings would mix with ours
    llm.generation_config = GenerationConfig(
        eos_token_id=eos_token_ids(folder) or None
    )
    return llm


def eos_token_ids(folder: Path) -> list[int]:
    """Return the ids of the end-of-text tokens that an LLM's folder names.

    A chat LLM may have several in its ``generation_config.json``, e.g. for
    the end of a message and for the end of a text. The default values of
    transformers for a ``config.json`` that names none are not used: they
    may be ordinary tokens of the LLM.

    Args:
        folder: The LLM's folder.

    Raises:
        ValueError: A file is no regular file or no JSON object.
    """
    ids: list[int] = []
    for name in ('generation_config.json', 'config.json'):
        found = read_settings(folder, name).get('eos_token_id')
        for token_id in found if isinstance(found, list) else [found]:
            if type(token_id) is int and token_id not in ids:
                ids.append(token_id)
    return ids


def check_arch(location: str, config: Any, arch: dict) -> None:
    """Refuse another LLM than the config expects.

    A vocabulary of up to ``EXTRA_VOCAB_ROWS`` more rows is accepted.

    Args:
        location: Where the LLM is from, for the error.
        config: Its Hugging Face config.
        arch: The expected settings.

    Raises:
        ValueError: A setting differs.
    """
    for key, expected in arch.items():
        found = getattr(config, key, None)
        if key == 'vocab_size' and isinstance(found, int):
            if expected <= found <= expected + EXTRA_VOCAB_ROWS:
                continue
        if found != expected:
            raise ValueError(
                f'the LLM in {location} has {key} {found}, but the config '
                f'expects {expected}; give the LLM that the config names, or '
                'set decoder.arch=None together with a projection that '
                'was trained for your LLM.'
            )


def _size_on_disk(folder: Path) -> int:
    """Return the bytes of all weight files in a folder."""
    files = (
        file
        for pattern in ('*.safetensors', '*.bin')
        for file in folder.glob(pattern)
    )
    return sum(file.stat().st_size for file in files)
