# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""State-dict hooks: save what was trained, load it for the right parts only.

The fingerprint in a checkpoint is that of its LLM, with the name of the
prompt template and the fingerprint of its vision parts.
"""

import logging
from collections.abc import Iterable
from typing import Any, Protocol

import torch
from mmengine.logging import print_log

from ..llm.fingerprint import (
    FINGERPRINT,
    decode_fingerprint,
    encode_fingerprint,
)
from ..llm.lora import compare_lora, is_lora, refuse_lora
from ..weights.state_dicts import SOURCE, as_weight, match_names, unwrap
from .vision_fingerprint import (
    compare_vision_fingerprints,
    compute_vision_fingerprint,
)

_UNKNOWN_SOURCE = 'the checkpoint'


class TrainedModel(Protocol):
    """The members of a model that the hooks use."""

    backbone: Any
    neck: Any
    data_preprocessor: Any
    decoder: Any
    template: Any
    check_llm: bool
    check_vision: bool
    check_template: bool
    loaded_weights: dict[str, torch.Tensor]

    @property
    def trained_names(self) -> list[str]:
        """Names of the trained parameters."""

    def named_parameters(self) -> Iterable[tuple[str, torch.Tensor]]:
        """Parameters by name."""


def register_hooks(model: Any) -> None:
    """Register the hooks of this module with a :class:`TrainedModel`."""
    model.register_state_dict_post_hook(keep_trained)
    model.register_load_state_dict_pre_hook(check_trained)
    model.register_load_state_dict_post_hook(ignore_frozen)


def keep_trained(
    model: TrainedModel, state_dict: dict, prefix: str, _: Any
) -> None:
    """State-dict hook: drop frozen weights, add the fingerprint."""
    trained = {prefix + name for name in model.trained_names}
    for key in [
        key
        for key in state_dict
        if key.startswith(prefix) and key not in trained
    ]:
        del state_dict[key]
    if model.decoder.tokenizer is not None:
        fingerprint = dict(
            model.decoder.fingerprint(), template=model.template.name
        )
        vision = _vision_fingerprint(model)
        if vision is not None:
            fingerprint['vision'] = vision
        if model.decoder.lora_settings is not None:
            fingerprint['lora'] = model.decoder.lora_settings
        state_dict[prefix + FINGERPRINT] = encode_fingerprint(fingerprint)


def _vision_fingerprint(model: TrainedModel) -> dict[str, Any] | None:
    return compute_vision_fingerprint(
        model.backbone, model.neck, model.data_preprocessor
    )


def check_trained(
    model: TrainedModel, state_dict: dict, prefix: str, metadata: dict, *_: Any
) -> None:
    """Load hook: refuse a checkpoint of other parts or another head.

    mmengine loads without ``strict`` and only warns of such errors. In the
    published checkpoints the head is ``llama_proj``, and other files have
    nested dicts or prefixes; see :mod:`~minigpt4.weights.state_dicts`.
    """
    source = metadata.get(SOURCE, _UNKNOWN_SOURCE)
    if not prefix:
        content = unwrap(state_dict, source)
        if content is not state_dict:
            content = dict(content)
            state_dict.clear()
            state_dict.update(content)
    _use_our_names(model, state_dict, prefix, source)
    fingerprint = state_dict.pop(prefix + FINGERPRINT, None)
    if fingerprint is not None:
        known = decode_fingerprint(fingerprint, source)
        if model.check_llm:
            model.decoder.check_fingerprint(known)
        if model.check_vision:
            vision = _vision_fingerprint(model)
            if vision is not None and known.get('vision') is not None:
                compare_vision_fingerprints(vision, known['vision'], source)
        _check_template(model, known.get('template'), source)
        compare_lora(model.decoder.lora_settings, known.get('lora'), source)
    trained = {prefix + name for name in model.trained_names}
    refuse_lora(
        (n for n in state_dict if n.startswith(prefix) and n not in trained),
        source,
    )
    _refuse_other_weights(model, state_dict, prefix, source)
    _start_lora(model, state_dict, prefix, source)
    parameters = dict(model.named_parameters())
    model.loaded_weights = {}
    for name in model.trained_names:
        want = tuple(parameters[name].shape)
        if prefix + name not in state_dict:
            raise ValueError(
                f'{source} lacks {prefix}{name}, which is trained; it '
                f'holds {", ".join(list(state_dict)[:3]) or "nothing"} ...; '
                'give a checkpoint of this configuration.'
            )
        found = as_weight(prefix + name, state_dict[prefix + name], source)
        if tuple(found.shape) != want:
            raise ValueError(
                f'{prefix}{name} is {tuple(found.shape)} in the checkpoint '
                f'but {want} in the model; {source} belongs to another LLM '
                'or another neck.'
            )
        state_dict[prefix + name] = found
        model.loaded_weights[name] = found


def _refuse_other_weights(
    model: TrainedModel, state_dict: dict, prefix: str, source: str
) -> None:
    """Refuse weights that would be dropped, or would change a frozen part.

    A trained part is complete: a layer of the head that the model does not
    have belongs to another head. Weights of a frozen part that differ were
    trained by another config; a checkpoint of this model would lack them.

    Raises:
        ValueError: There are such weights.
    """
    parameters = dict(model.named_parameters())
    trained = set(model.trained_names)
    for key in [key for key in state_dict if key.startswith(prefix)]:
        name = key[len(prefix) :]
        own = parameters.get(name)
        if own is None and name.startswith('head.'):
            raise ValueError(
                f'{source} has {key}, which the head of this config does not '
                'have; use the config with which it was trained, e.g. one of '
                'several linear layers (configs/minigpt4/*_ablation_b.py).'
            )
        if own is None or own.is_meta or name in trained:
            continue
        found = as_weight(key, state_dict[key], source)
        own = own.detach()
        # one of them may have fewer bits
        if not (
            torch.equal(found, own.to(found))
            or torch.equal(found.to(own), own)
        ):
            raise ValueError(
                f'{source} has other weights of {key} than the frozen part of '
                'this config; use a config that trains this part, e.g. '
                'configs/minigpt4/*_ablation_c.py for the Q-Former.'
            )
        del state_dict[key]  # the model has it, maybe with more bits


def _start_lora(
    model: TrainedModel, state_dict: dict, prefix: str, source: str
) -> None:
    """Accept a checkpoint of a training without LoRA, e.g. of stage 1.

    The model keeps its LoRA weights, with which a new model answers as one
    without LoRA.
    """
    lora = [name for name in model.trained_names if is_lora(name)]
    if not lora or any(prefix + name in state_dict for name in lora):
        return
    print_log(
        f'{source} has no LoRA weights; LoRA begins without an effect.',
        logger='current',
        level=logging.WARNING,
    )
    parameters = dict(model.named_parameters())
    for name in lora:
        state_dict[prefix + name] = parameters[name].detach().clone()


def _check_template(
    model: TrainedModel, trained: str | None, source: str
) -> None:
    """Refuse a checkpoint of another template; ``bare`` is that of stage 1.

    Raises:
        ValueError: It was trained with another template.
    """
    if len({trained, model.template.name} - {None, 'bare'}) < 2:
        return
    message = (
        f'{source} was trained with the template {trained}, this config uses '
        f'{model.template.name}'
    )
    if model.check_template:
        raise ValueError(
            f'{message}; set model.prompt_template={trained!r}, or '
            'model.check_template=False to use it anyway.'
        )
    print_log(f'{message}.', logger='current', level=logging.WARNING)


def _use_our_names(
    model: TrainedModel, state_dict: dict, prefix: str, source: str
) -> None:
    """Rename trained weights to the names in the model.

    Raises:
        ValueError: A name occurs twice, or only some names have a prefix.
    """
    theirs = {
        f'head.layers.0.{x}': f'llama_proj.{x}' for x in ('weight', 'bias')
    }
    expected = {*model.trained_names, *theirs.values(), FINGERPRINT}
    names = [n[len(prefix) :] for n in state_dict if n.startswith(prefix)]
    found = match_names(names, expected, source)
    for ours, other in theirs.items():
        if ours in found and other in found:
            raise ValueError(
                f'{source} holds two heads, {found[ours]} and '
                f'{found[other]}; save the one that is meant.'
            )
    for bare, name in found.items():
        ours = next((o for o, t in theirs.items() if t == bare), bare)
        if ours != name:
            state_dict[prefix + ours] = state_dict.pop(prefix + name)


def ignore_frozen(model: TrainedModel, incompatible_keys: Any) -> None:
    """Load hook: frozen weights may be missing, they have their own files.

    Raises:
        ValueError: A trained parameter was not set to the checkpoint's value.
    """
    parameters = dict(model.named_parameters())
    for name, value in model.loaded_weights.items():
        found = parameters[name].detach()
        if not found.is_meta and not torch.equal(found, value.to(found)):
            raise ValueError(
                f'{name} was not set from the checkpoint; give a checkpoint '
                'of this configuration, saved by this version.'
            )
    model.loaded_weights = {}
    trained = set(model.trained_names)
    incompatible_keys.missing_keys[:] = [
        key for key in incompatible_keys.missing_keys if key in trained
    ]
