# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""What a checkpoint holds: what was trained, and which LLM it was trained for.

Hooks of the model's state dict, and the LLM's fingerprint as a tensor.
"""

import json
import logging
from typing import TYPE_CHECKING

import torch
from mmengine.logging import print_log
from torch import Tensor

if TYPE_CHECKING:
    from .minigpt4 import MiniGPT4

FINGERPRINT = 'llm_fingerprint'


def encode_fingerprint(fingerprint: dict) -> Tensor:
    """A fingerprint as a uint8 tensor of JSON, to stand in a state dict."""
    return torch.tensor(
        list(json.dumps(fingerprint).encode()), dtype=torch.uint8
    )


def decode_fingerprint(tensor: Tensor) -> dict:
    """The inverse of :func:`encode_fingerprint`."""
    return json.loads(bytes(tensor.tolist()))


def keep_trained(model: 'MiniGPT4', state_dict: dict, prefix: str, _) -> None:
    """State-dict hook: drop what is frozen, add the LLM's fingerprint."""
    trained = {prefix + name for name in model.trained_names}
    for key in [
        key
        for key in state_dict
        if key.startswith(prefix) and key not in trained
    ]:
        del state_dict[key]
    if model.decoder.tokenizer is not None:
        state_dict[prefix + FINGERPRINT] = encode_fingerprint(
            dict(model.decoder.fingerprint(), template=model.template.name)
        )


def check_trained(
    model: 'MiniGPT4', state_dict: dict, prefix: str, *_
) -> None:
    """Load hook: refuse a checkpoint of another LLM or another head.

    mmengine loads without ``strict`` and only warns of such faults. The
    published checkpoints call the head ``llama_proj``, and the official ones
    wrap it as ``model``, beside the optimizer's state.
    """
    wrapped = state_dict.get('model')
    if isinstance(wrapped, dict):
        state_dict.clear()
        state_dict.update({prefix + k: v for k, v in wrapped.items()})
    for name in ('weight', 'bias'):
        theirs = f'{prefix}llama_proj.{name}'
        if theirs in state_dict:
            state_dict[f'{prefix}head.layers.0.{name}'] = state_dict.pop(
                theirs
            )
    fingerprint = state_dict.pop(prefix + FINGERPRINT, None)
    if fingerprint is not None:
        known = decode_fingerprint(fingerprint)
        if model.check_llm:
            model.decoder.check_fingerprint(known)
        names = {known.get('template'), model.template.name} - {None, 'bare'}
        if len(names) > 1:
            print_log(
                f'the checkpoint was trained with the template '
                f'{known["template"]}, this config speaks '
                f'{model.template.name}.',
                logger='current',
                level=logging.WARNING,
            )
    parameters = dict(model.named_parameters())
    for name in model.trained_names:
        found = state_dict.get(prefix + name)
        want = tuple(parameters[name].shape)
        if found is None:
            raise ValueError(
                f'the checkpoint lacks {prefix}{name}, which is trained; it '
                f'holds {", ".join(list(state_dict)[:3])} ...; give a '
                'checkpoint of this configuration.'
            )
        if tuple(found.shape) != want:
            raise ValueError(
                f'{prefix}{name} is {tuple(found.shape)} in the checkpoint '
                f'but {want} in the model; the checkpoint belongs to another '
                'LLM or another neck.'
            )


def ignore_frozen(model: 'MiniGPT4', incompatible_keys) -> None:
    """Load hook: frozen parts come from files of their own."""
    trained = set(model.trained_names)
    incompatible_keys.missing_keys[:] = [
        key for key in incompatible_keys.missing_keys if key in trained
    ]
