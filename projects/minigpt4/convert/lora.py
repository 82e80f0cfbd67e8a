# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""LoRA weights of a checkpoint: merge them into an LLM, or name them as peft.

The weights stay in their files until they are written.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..llm.lora import ADAPTER, lora_settings, other_form
from ..weights.read import LazyTensor
from ..weights.state_dicts import as_weight

Tensors = dict[str, LazyTensor]
_PREFIX = 'decoder.llm.'
_A, _B = (f'.lora_{x}.{ADAPTER}.weight' for x in 'AB')
_PEFT_PREFIX = 'base_model.model.'


class LoraLayer(NamedTuple):
    """LoRA of one linear layer.

    Attributes:
        a: ``(r, in_features)``.
        b: ``(out_features, r)``.
    """

    a: LazyTensor
    b: LazyTensor


def refuse_lora_form(settings: Mapping[str, Any] | None) -> None:
    """Refuse LoRA that is more than two matrices for each layer.

    Args:
        settings: Keyword arguments of peft's ``LoraConfig``, or None.

    Raises:
        ValueError: It has such a setting.
    """
    if not settings:
        return
    name = other_form({**settings})
    if name is not None:
        raise ValueError(
            f'the config has decoder.lora with {name}={settings[name]!r}, '
            'which cannot be exported; expected plain LoRA: serve this model '
            'with minigpt4 itself.'
        )


def open_lora(
    trained: Tensors,
    settings: Mapping[str, Any],
    llm: Tensors,
    source: object,
) -> dict[str, LoraLayer]:
    """Find the LoRA weights in a checkpoint, by the name of their layer.

    Args:
        trained: The tensors of the checkpoint.
        settings: Keyword arguments of peft's ``LoraConfig``.
        llm: The tensors of the LLM by its own names.
        source: The checkpoint, for errors.

    Raises:
        ValueError: There are none, one is missing, or one does not fit.
    """
    rank = lora_settings({**settings})['r']
    names = [n.removeprefix(_PREFIX) for n in trained if n.startswith(_PREFIX)]
    layers = {
        name.removesuffix(end)
        for name in names
        for end in (_A, _B)
        if name.endswith(end)
    }
    if not layers:
        raise ValueError(
            f'{source} has no LoRA weights, but the config has decoder.lora; '
            'give a checkpoint of this config, or set decoder.lora=None.'
        )
    targets = settings.get('target_modules')
    if isinstance(targets, (list, tuple)) and not settings.get(
        'layers_to_transform'
    ):
        ends = tuple(f'.{target}.weight' for target in targets)
        expected = {n.removesuffix('.weight') for n in llm if n.endswith(ends)}
        if missing := sorted(expected - layers):
            raise ValueError(
                f'{source} has LoRA weights of {len(layers)} layers, but not '
                f'of {missing[0]}; give a complete checkpoint of this config.'
            )
    found = {}
    for layer in sorted(layers):
        if f'{layer}.weight' not in llm:
            raise ValueError(
                f'{source} has LoRA weights of {layer}, which the LLM lacks; '
                'give the LLM that it was trained with.'
            )
        out_features, in_features = llm[f'{layer}.weight'].shape
        pair = []
        for end, shape in (
            (_A, (rank, in_features)),
            (_B, (out_features, rank)),
        ):
            name = _PREFIX + layer + end
            if name not in trained:
                raise ValueError(
                    f'{source} lacks {name}; give a complete checkpoint of '
                    'this config.'
                )
            if trained[name].shape != shape:
                raise ValueError(
                    f'{name} is {trained[name].shape} in {source}, but '
                    f'expected {shape}; set r of decoder.lora to that of its '
                    'training, and give the LLM that it was trained with.'
                )
            as_weight(name, trained[name].read(), source)
            pair.append(trained[name])
        found[layer] = LoraLayer(*pair)
    return found


def merged_tensors(
    llm: Tensors,
    layers: Mapping[str, LoraLayer],
    settings: Mapping[str, Any],
    dtype: torch.dtype | None = None,
) -> Tensors:
    """Add LoRA to the weights of an LLM when they are read.

    The sums are computed in fp32.

    Args:
        llm: The tensors of the LLM by its own names.
        layers: The result of :func:`open_lora`.
        settings: Keyword arguments of peft's ``LoraConfig``.
        dtype: Type of the sums; None is that of the LLM.
    """
    scale = lora_settings({**settings})['scale']
    merged = dict(llm)
    for layer, lora in layers.items():
        name = f'{layer}.weight'
        base = llm[name]
        total = LazyTensor(
            base.shape, torch.float32, _sum_of(base, lora, scale)
        )
        merged[name] = total.to(dtype or base.dtype, name)
    return merged


def _sum_of(base: LazyTensor, lora: LoraLayer, scale: float) -> Any:
    def read() -> Tensor:
        change = lora.b.read().float() @ lora.a.read().float()
        return base.read().float().add(change, alpha=scale)

    return read


def peft_tensors(layers: Mapping[str, LoraLayer]) -> Tensors:
    """Name LoRA weights as in peft's ``adapter_model.safetensors``."""
    return {
        f'{_PEFT_PREFIX}{layer}.lora_{x}.weight': tensor
        for layer, lora in layers.items()
        for x, tensor in zip('AB', lora, strict=True)
    }
