# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Whether an LLM can run on the KV slots of :class:`KVCache`."""

import inspect
import logging
from collections.abc import MutableMapping
from weakref import WeakKeyDictionary

import torch
from mmengine.logging import print_log
from torch import nn

from .. import compat
from ..llm.families import LAYER_CLASSES, family_difference
from ..models.decoder import LLMDecoder
from .fast_decoder import fast_decoder_difference
from .kv_cache import KVCache

# relative error of hidden states; 16-bit weights stay below 0.01
_MAX_ERROR = 0.02
_PROBE_LENGTH = 6
_RESULTS: MutableMapping[nn.Module, bool] = WeakKeyDictionary()


def supports_kv_slots(decoder: LLMDecoder) -> bool:
    """Whether an LLM can run on KV slots.

    Its layers have to attend to all earlier tokens, by K and V alone, with
    the mask and the positions that they are given. A sliding window, recurrent
    layers or a mask of its own exclude an LLM. In addition to its config, the
    hidden states of a few tokens are compared with and without slots, once
    for each LLM.
    """
    llm = decoder.llm
    if decoder.sharded or (llm.training and llm.is_gradient_checkpointing):
        # all ranks have to take the same steps; recomputed layers take no
        # cache
        return False
    if llm not in _RESULTS:
        is_known = (
            llm.config.model_type == 'llama'
            or fast_decoder_difference(llm) is None
        )
        reason = None if is_known else _incompatibility(decoder)
        if reason is not None:
            print_log(
                f'{decoder.name_or_path} cannot keep keys and values in slots '
                f"({reason}); transformers' generate answers, one request "
                'after another.',
                logger='current',
                level=logging.WARNING,
            )
        _RESULTS[llm] = reason is None
    return _RESULTS[llm]


def _incompatibility(decoder: LLMDecoder) -> str | None:
    """Why an LLM cannot run on KV slots, or None."""
    llm = decoder.llm
    parameters = inspect.signature(llm.base_model.forward).parameters
    if 'position_ids' not in parameters:
        return 'it takes no positions'
    if not compat.attends_to_all(llm.config):
        return (
            family_difference(llm.config)
            if llm.config.model_type in LAYER_CLASSES
            else 'its layers do not attend to all earlier tokens'
        )
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(
        1, llm.config.vocab_size, (1, _PROBE_LENGTH), generator=generator
    )
    embeddings = decoder.embed_tokens(decoder.to_llm_device(ids))
    positions = decoder.to_llm_device(torch.arange(_PROBE_LENGTH)[None])
    try:
        expected = llm.base_model(
            inputs_embeds=embeddings, use_cache=False
        ).last_hidden_state
        cache = KVCache()
        cache.allocate(1, _PROBE_LENGTH)
        found = []
        for chunk in (slice(0, 4), slice(4, 5), slice(5, 6)):
            now = positions[:, chunk]
            cache.set_pass(0, now, _PROBE_LENGTH)
            mask = torch.where(
                positions > now[:, None, :, None], float('-inf'), 0.0
            ).to(embeddings.dtype)
            found.append(
                llm.base_model(
                    inputs_embeds=embeddings[:, chunk],
                    attention_mask=mask,
                    position_ids=now,
                    past_key_values=cache,
                    use_cache=True,
                ).last_hidden_state
            )
    except Exception as error:  # of any kind: the LLM's code is unknown
        return f'{type(error).__name__}: {error}'.splitlines()[0]
    difference = (torch.cat(found, 1) - expected).float().norm()
    relative = float(difference / expected.float().norm())
    if relative < _MAX_ERROR:
        return None
    return f'its hidden states differ by {relative:.0%}'
