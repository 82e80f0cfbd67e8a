# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Which LLMs the fast paths of generation and training know.

Both were written for LLaMA. Mistral, Qwen2 and Qwen3 differ from it in their
sizes, in biases of query, key and value, and in norms of query and key only.
Other LLMs run through transformers' own modules.
"""

from typing import Any

from .. import compat

# model_type of the Hugging Face config: class of the layers. SmolLM2 and
# Llama 3 are of type llama, Qwen2.5 is of type qwen2.
LAYER_CLASSES = {
    'llama': 'LlamaDecoderLayer',
    'mistral': 'MistralDecoderLayer',
    'qwen2': 'Qwen2DecoderLayer',
    'qwen3': 'Qwen3DecoderLayer',
}


def family_difference(config: Any) -> str | None:
    """Why the fast paths do not know an LLM, or None if they do.

    Args:
        config: The Hugging Face config of the LLM.

    Returns:
        A clause for messages, e.g. ``'its architecture is gpt2'``.
    """
    if config.model_type not in LAYER_CLASSES:
        return f'its architecture is {config.model_type}'
    if not compat.attends_to_all(config):
        return (
            f'its sliding window of {config.sliding_window} tokens is '
            f'smaller than its context of {config.max_position_embeddings}'
        )
    return None
