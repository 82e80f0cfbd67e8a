# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Finding and loading the LLM: its files, its type, bits and devices.

Weights whose file has the wanted type are memory-mapped and cost a CPU no
memory of its own; others are converted tensor by tensor. There are never two
copies. No code of the LLM's folder is run; see
:mod:`~minigpt4.weights.llm_folder`.
"""

import inspect
import logging
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from mmengine import dist
from mmengine.logging import print_log
from sentencepiece import SentencePieceProcessor

from .. import compat
from ..utils.errors import one_line
from ..utils.file_types import read_head
from ..weights.download import is_offline
from ..weights.file_errors import pickled_code
from ..weights.llm_folder import check_folder, choose_weights
from ..weights.load import local_path, torch_dtype
from .llama_tokenizer import load_llama_tokenizer

LLM_VARIABLE = 'MINIGPT4_LLM'
# rows that are appended to a vocabulary without making it another LLM: the
# [PAD] of a merged Vicuna v0 (32,001 rows), padding to a multiple of 64
SPARE_ROWS = 64
# what transformers reads of a repository besides the weights
_SMALL_FILES = ('*.json', '*.model', '*.txt', '*.jinja')
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


def fetch_llm(
    repository: str, folder: 'Path | None' = None, weights: bool = True
) -> str:
    """Bring a repository of the Hugging Face hub to a local folder.

    Args:
        repository: Its name, ``'org/name'``.
        folder: Where to; by default the hub's own cache.
        weights: Whether to bring the weights too: the ``*.safetensors``, or
            the ``*.bin`` where it has no others.

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
        safe = any(name.endswith('.safetensors') for name in names)
        # a repository with both kinds would come twice
        patterns.append('*.safetensors' if safe else '*.bin')
    return huggingface_hub.snapshot_download(
        repository, allow_patterns=patterns, local_dir=folder
    )


def local_llm(where: str, weights: bool = True) -> Path:
    """The local folder of an LLM, checked before transformers reads it.

    Args:
        where: What :func:`locate_llm` returned: a folder, or the name of a
            hub's repository, which is fetched.
        weights: Whether its weights are needed.

    Raises:
        FileNotFoundError: It cannot be fetched, or lacks a file.
        ValueError: It wants code of its own, or a file of it is damaged.
    """
    folder = Path(where)
    if not folder.exists():
        try:
            folder = Path(fetch_llm(where, weights=weights))
        except Exception as error:  # the hub's errors have no common base
            raise FileNotFoundError(
                f'the LLM {where!r} is no local folder and could not be '
                f'fetched from a hub ({one_line(error)}); download it and '
                f'name its folder in {LLM_VARIABLE} or in '
                'decoder.name_or_path.'
            ) from error
    check_folder(folder, weights)
    return folder


def load_tokenizer(name_or_path: str):
    """The LLM's tokenizer; special tokens in a text are letters to it.

    Raises:
        FileNotFoundError: There is no such LLM, or it cannot be fetched.
        ValueError: The folder is refused, its tokenizer cannot be loaded, or
            a LLaMA folder's tokens would not be SentencePiece's.
    """
    from transformers import AutoTokenizer

    folder = local_llm(locate_llm(name_or_path), weights=False)
    tokenizer = load_llama_tokenizer(folder)
    if tokenizer is not None:
        return tokenizer
    pieces = folder / 'tokenizer.model'
    try:
        if pieces.is_file() and read_head(pieces)[0] == 0x0A:
            # without this check transformers asks for tiktoken
            SentencePieceProcessor(model_file=str(pieces))
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder), trust_remote_code=False
        )
    except Exception as error:  # tokenizers raises bare Exceptions
        raise ValueError(
            f'the tokenizer in {folder} cannot be loaded '
            f'({_first_line(error)}); download its tokenizer.model or '
            'tokenizer.json and tokenizer_config.json again.'
        ) from error
    tokenizer.split_special_tokens = True
    return tokenizer


def load_config(folder: Path) -> Any:
    """The Hugging Face config of a checked folder; no code of it is run.

    Args:
        folder: A folder without faults; see
            :func:`~minigpt4.weights.llm_folder.check_folder` and
            :func:`~minigpt4.weights.folder_code.code_faults`.

    Raises:
        ValueError: transformers cannot read it, or does not know its type.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:  # its validators raise types of their own
        raise ValueError(
            f'{folder / "config.json"} is no config that '
            f'{compat.transformers_name()} reads ({_first_line(error)}); '
            'download it again, or update transformers if the model is newer.'
        ) from error


def _first_line(error: BaseException) -> str:
    code = pickled_code(str(error))
    if code is not None:
        return f'a pickle that would run code, {code}, which is refused'
    return f'{type(error).__name__}: {one_line(error).rstrip(".")}'


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
    # a kernel that the config names would be fetched and run
    arch = {k: v for k, v in arch.items() if 'attn_implementation' not in k}
    config = AutoConfig.for_model(**arch)
    return AutoModelForCausalLM.from_config(
        config,
        trust_remote_code=False,
        **compat.dtype_argument(torch_dtype(dtype)),
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
        FileNotFoundError: It cannot be fetched, or lacks a file.
        ImportError: A library for quantisation or placement is missing.
        RuntimeError: The libraries cannot quantise without a GPU.
        ValueError: It wants code of its own, is damaged, is another LLM than
            ``arch``, lacks tensors, or cannot be quantised or placed as
            asked.
    """
    from transformers import AutoModelForCausalLM, GenerationConfig

    folder = local_llm(where)
    config = load_config(folder)
    check_arch(where, config, arch or {})
    if dtype == 'auto' and not torch.cuda.is_available():
        dtype = 'bfloat16' if _size_on_disk(folder) > 2e9 else 'float32'
    arguments: dict = dict(
        attn_implementation='sdpa',
        trust_remote_code=False,
        ignore_mismatched_sizes=True,  # they are refused below, by name
    )
    if str(choose_weights(folder)).startswith('pytorch_model'):
        arguments['use_safetensors'] = False
    arguments |= compat.dtype_argument(torch_dtype(dtype))
    arguments |= _placement(device_map, max_memory)
    arguments |= _bits(where, config, quantization, torch_dtype(dtype))
    load: Any = AutoModelForCausalLM.from_pretrained
    try:
        llm, report = load(str(folder), output_loading_info=True, **arguments)
    except (ImportError, MemoryError, torch.OutOfMemoryError):
        raise
    except OSError as error:
        raise FileNotFoundError(
            f'the weights of the LLM {where} cannot be loaded '
            f'({one_line(error)}); download its *.safetensors or '
            'pytorch_model*.bin whole.'
        ) from error
    except Exception as error:  # damaged weights raise types of many kinds
        raise ValueError(
            f'the weights of the LLM {where} cannot be loaded '
            f'({_first_line(error)}); are they of the model that its '
            'config.json describes? Else download them again.'
        ) from error
    misshapen = {name for name, *_ in report['mismatched_keys']}
    missing = sorted({*report['missing_keys']} - misshapen)
    if missing:
        raise ValueError(
            f'{where} lacks {len(missing)} tensors of the LLM, e.g. '
            f'{missing[0]}; is it a complete model (a Vicuna delta has to '
            'be merged first)?'
        )
    misshaped = sorted(report['mismatched_keys'])
    if misshaped:
        name, found, wanted = misshaped[0]
        raise ValueError(
            f'the weights of the LLM {where} have another size than its '
            f'config.json says: {name} is {tuple(found)} in the weights and '
            f'{tuple(wanted)} by config.json ({len(misshaped)} such tensors); '
            'give the config.json of these weights.'
        )
    unused = sorted(report['unexpected_keys'])
    unused = [name for name in unused if not name.endswith('inv_freq')]
    if unused:
        print_log(
            f'{where} holds {len(unused)} tensors that its config.json has '
            f'no use for, e.g. {unused[0]}; they are left out.',
            logger='current',
            level=logging.WARNING,
        )
    compat.keep_gradients_of_4bit(llm)
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


def _size_on_disk(folder: Path) -> int:
    files = (
        file
        for pattern in ('*.safetensors', '*.bin')
        for file in folder.glob(pattern)
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
