# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Arguments of ``from_pretrained`` for device placement and quantisation."""

import inspect
import logging
from importlib.util import find_spec
from typing import Any

import torch
from mmengine import dist

from .. import compat

_DEVICE_MAPS = ('auto', 'balanced', 'balanced_low_0', 'sequential')


def _require(library: str, feature: str) -> None:
    """Raise ImportError if a library is not installed."""
    if find_spec(library) is None:
        raise ImportError(
            f'{feature} needs {library}, which is not installed; run: '
            "pip install 'minigpt4[quant]'"
        )


def placement_options(
    device_map: str | dict | None, max_memory: dict | None
) -> dict[str, Any]:
    """Return the arguments of ``from_pretrained`` for device placement.

    Args:
        device_map: ``'auto'``, ``'balanced'`` ... or a dict of modules and
            devices; None is one device.
        max_memory: Memory to use of each device.

    Raises:
        ImportError: accelerate is not installed.
        ValueError: The settings are invalid or contradict each other.
    """
    if device_map is None:
        if max_memory is not None:
            raise ValueError(
                'decoder.max_memory limits how much of the LLM each device '
                "holds, which needs decoder.device_map, e.g. 'auto'."
            )
        return {}
    _require('accelerate', f'decoder.device_map={device_map!r}')
    if not isinstance(device_map, dict) and device_map not in _DEVICE_MAPS:
        raise ValueError(
            f'decoder.device_map is {device_map!r}; expected one of '
            f'{", ".join(_DEVICE_MAPS)}, or a dict of modules and devices.'
        )
    if max_memory is not None and not isinstance(max_memory, dict):
        raise ValueError(
            f'decoder.max_memory is {max_memory!r}; expected a dict of '
            "devices and sizes, such as {0: '20GiB', 'cpu': '60GiB'}."
        )
    if dist.get_world_size() > 1:
        raise ValueError(
            'decoder.device_map spreads one LLM over the GPUs of one process, '
            f'but there are {dist.get_world_size()}; start one process, or '
            'share the LLM out with decoder.shard=True.'
        )
    if isinstance(device_map, dict):
        device_map = dict(device_map)  # accelerate rejects a ConfigDict
    max_memory = None if max_memory is None else dict(max_memory)
    return dict(device_map=device_map, max_memory=max_memory)


def quantization_options(
    location: str, config: Any, quantization: dict | None, dtype: torch.dtype
) -> dict[str, Any]:
    """Return the arguments of ``from_pretrained`` for quantisation.

    Args:
        location: Where the LLM is from, for errors.
        config: Its Hugging Face config, which states whether its weights
            are quantised.
        quantization: Arguments of ``BitsAndBytesConfig`` to quantise with.
        dtype: Type in which 4-bit layers compute.

    Raises:
        ImportError: accelerate or bitsandbytes is not installed.
        RuntimeError: The libraries cannot quantise without a GPU.
        ValueError: The LLM cannot be quantised as requested, or is quantised
            with another library.
    """
    if quantization is not None and not isinstance(quantization, dict):
        raise ValueError(
            f'decoder.quantization is {quantization!r}; expected arguments of '
            'BitsAndBytesConfig, such as dict(load_in_8bit=True), or None.'
        )
    stored = getattr(config, 'quantization_config', None)
    if stored is not None:
        stored = stored if isinstance(stored, dict) else stored.to_dict()
        method = str(stored.get('quant_method'))
        if 'bitsandbytes' not in method:
            # torchao's dynamic int8, for example, computes a wrong gradient
            # without any error
            raise ValueError(
                f'the LLM in {location} is quantised with {method}, whose '
                'gradients are not known to be right; give the unquantised '
                'LLM, with decoder.quantization=dict(load_in_8bit=True).'
            )
        if quantization is not None:
            raise ValueError(
                f'the LLM in {location} is quantised already; omit '
                'decoder.quantization.'
            )
    elif quantization is None:
        return {}
    _require('accelerate', 'a quantised LLM')
    _require('bitsandbytes', 'a quantised LLM')
    if not (torch.cuda.is_available() or compat.quantises_on_cpu()):
        raise RuntimeError(
            'a quantised LLM needs a GPU, or transformers 5 or newer; run: '
            "pip install 'transformers>=5'"
        )
    # In bf16 and fp32 each call of an 8-bit layer would warn that its input
    # is converted to fp16.
    logging.getLogger('bitsandbytes.autograd._functions').setLevel(
        logging.ERROR
    )
    if quantization is None:
        return {}
    from transformers import BitsAndBytesConfig

    known = inspect.signature(BitsAndBytesConfig).parameters
    unknown = [key for key in quantization if key not in known]
    flags = [quantization.get(f'load_in_{n}bit', False) for n in (4, 8)]
    if unknown or sum(flags) != 1:
        raise ValueError(
            f'decoder.quantization is {dict(quantization)}; expected '
            'load_in_8bit=True or load_in_4bit=True and other arguments of '
            'BitsAndBytesConfig'
            + (f' ({", ".join(unknown)} is unknown).' if unknown else '.')
        )
    # nf4 is closer to the unquantised gradient than the library's fp4
    defaults = dict(bnb_4bit_compute_dtype=dtype, bnb_4bit_quant_type='nf4')
    return dict(
        quantization_config=BitsAndBytesConfig(**defaults | quantization)
    )
