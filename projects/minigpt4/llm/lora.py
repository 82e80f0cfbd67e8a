# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""LoRA on an LLM, through peft: low-rank changes of linear layers.

A layer of weight ``W`` computes with ``W + s * B @ A``, where ``A`` has ``r``
rows, ``B`` has ``r`` columns and ``s`` is the scale. Only ``A`` and ``B`` are
trained; ``B`` begins with zeros. Source: arXiv 2106.09685.
"""

import contextlib
import importlib.util
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

LORA_MARK = '.lora_'  # in the names of LoRA's parameters
# names of these parameters end with the name of the adapter
ADAPTER = 'default'
# settings of LoraConfig that make the change more than s * B @ A
_OTHER_FORMS = (
    *('use_dora', 'rank_pattern', 'alpha_pattern', 'modules_to_save'),
    *('fan_in_fan_out', 'layer_replication', 'target_parameters'),
    *('trainable_token_indices', 'use_bdlora', 'alora_invocation_tokens'),
)


def require_peft() -> None:
    """Check that peft is installed, without importing it.

    Raises:
        ImportError: It is not.
    """
    if importlib.util.find_spec('peft') is None:
        raise ImportError(
            'decoder.lora needs peft, which is not installed; run "pip '
            'install minigpt4[lora]".'
        )


def lora_config(settings: dict[str, Any]) -> Any:
    """Return peft's ``LoraConfig``.

    Args:
        settings: Its keyword arguments.

    Raises:
        ImportError: peft is not installed.
        ValueError: An argument is invalid.
    """
    require_peft()
    from peft import LoraConfig

    with _type_errors_named(settings):
        return LoraConfig(**settings)


@contextlib.contextmanager
def _type_errors_named(settings: dict[str, Any]) -> Iterator[None]:
    try:
        yield
    except TypeError as error:
        raise ValueError(
            f'decoder.lora is {settings!r}, which peft does not take '
            f'({error}); expected keyword arguments of LoraConfig.'
        ) from error


def lora_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """What decides on the effect of LoRA weights, besides their values.

    Args:
        settings: Keyword arguments of ``LoraConfig``.

    Returns:
        ``r`` and ``scale``, the factor of ``B @ A``.
    """
    config = lora_config(settings)
    rank = config.r**0.5 if config.use_rslora else config.r
    return dict(r=config.r, scale=config.lora_alpha / rank)


def inject_lora(llm: nn.Module, settings: dict[str, Any]) -> dict[str, Any]:
    """Add LoRA to an LLM, in place. Its weights are fp32.

    Args:
        llm: The LLM.
        settings: Keyword arguments of ``LoraConfig``.

    Returns:
        As of :func:`lora_settings`.

    Raises:
        ImportError: peft is not installed.
        ValueError: An argument is invalid.
    """
    config = lora_config(settings)
    from peft import inject_adapter_in_model

    with _type_errors_named(settings):
        inject_adapter_in_model(config, llm)
    for parameter in llm.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return lora_settings(settings)


def merge_lora(llm: nn.Module) -> None:
    """Add LoRA to the weights, and put the plain layers in place of peft's.

    Args:
        llm: An LLM after :func:`inject_lora`.
    """
    from peft.tuners.lora import LoraLayer

    for name, layer in list(llm.named_modules()):
        if isinstance(layer, LoraLayer):
            layer.merge()
            parent, _, child = name.rpartition('.')
            base = layer.get_base_layer()
            setattr(llm.get_submodule(parent), child, base)


def is_lora(name: str) -> bool:
    """Whether a name in a checkpoint is of a LoRA parameter."""
    return LORA_MARK in name


def compare_lora(
    found: dict[str, Any] | None, trained: Any, source: object
) -> None:
    """Refuse LoRA weights that were trained with another rank or scale.

    Args:
        found: :func:`inject_lora` of the model; None without LoRA.
        trained: That in the checkpoint; None where it has none.
        source: The checkpoint, for the error.

    Raises:
        ValueError: They differ.
    """
    if found is None or trained is None or found == trained:
        return
    raise ValueError(
        f'{source} was trained with LoRA of {trained}, the config has '
        f'{found}; set r and lora_alpha of decoder.lora to those of its '
        'training.'
    )


def other_form(settings: dict[str, Any]) -> str | None:
    """A setting with which LoRA is more than ``s * B @ A``, or None."""
    if settings.get('bias', 'none') != 'none':
        return 'bias'
    if settings.get('init_lora_weights', True) not in (
        True,
        False,
        'gaussian',
    ):
        return 'init_lora_weights'  # e.g. PiSSA changes the weights of the LLM
    return next((name for name in _OTHER_FORMS if settings.get(name)), None)


def refuse_lora(names: Iterable[str], source: object) -> None:
    """Refuse a checkpoint with LoRA for a model without it.

    Args:
        names: Names in the checkpoint that the model lacks.
        source: The checkpoint, for the error.

    Raises:
        ValueError: One is of LoRA.
    """
    name = next(filter(is_lora, names), None)
    if name is not None:
        raise ValueError(
            f'{source} has LoRA weights ({name}), but the config has no '
            'decoder.lora; give the config that it was trained with, such as '
            'stage2_finetune_vicuna.py, or merge LoRA into the LLM: '
            '"minigpt4 convert CONFIG --checkpoint FILE --to merged -o '
            'FOLDER".'
        )
