# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Translate the metadata of a GGUF file to a Hugging Face config.

Source of the names: gguf-py/gguf/constants.py and tensor_mapping.py of
llama.cpp@master; of the config keys: the configuration classes of
transformers 5.17.
"""

import math
from typing import Any

import numpy as np

from ..weights.gguf_header import GgufHeader

# architecture in the file: model type and class of transformers. Mistral
# models before version 3 are of the architecture llama too.
_ARCHITECTURES = {
    'llama': ('llama', 'LlamaForCausalLM'),
    'qwen2': ('qwen2', 'Qwen2ForCausalLM'),
    'qwen3': ('qwen3', 'Qwen3ForCausalLM'),
}
_REQUIRED = {
    'hidden_size': 'embedding_length',
    'intermediate_size': 'feed_forward_length',
    'num_hidden_layers': 'block_count',
    'num_attention_heads': 'attention.head_count',
    'max_position_embeddings': 'context_length',
}
_TENSORS = {
    'token_embd.weight': 'model.embed_tokens.weight',
    'output_norm.weight': 'model.norm.weight',
    'output.weight': 'lm_head.weight',
}
_LAYER_TENSORS = {
    'attn_norm': 'input_layernorm',
    'attn_q': 'self_attn.q_proj',
    'attn_k': 'self_attn.k_proj',
    'attn_v': 'self_attn.v_proj',
    'attn_output': 'self_attn.o_proj',
    'attn_q_norm': 'self_attn.q_norm',
    'attn_k_norm': 'self_attn.k_norm',
    'ffn_norm': 'post_attention_layernorm',
    'ffn_gate': 'mlp.gate_proj',
    'ffn_up': 'mlp.up_proj',
    'ffn_down': 'mlp.down_proj',
}
_ROPE_FACTORS = 'rope_freqs.weight'
# the settings of all Llama 3.1 to 3.3 besides their factor
_LLAMA3_ROPE = dict(
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=8192,
)


def hugging_face_config(header: GgufHeader) -> dict[str, Any]:
    """Return the ``config.json`` of the LLM in a GGUF file.

    Args:
        header: The file's header.

    Raises:
        ValueError: The file is no LLM, or of an architecture or with a
            setting that is not supported.
    """
    path, metadata = header.path, header.metadata
    name = header.architecture
    if name == 'clip' or metadata.get('general.type') == 'mmproj':
        raise ValueError(
            f'{path} is the vision encoder of a multimodal model (mmproj), '
            'not an LLM; give the .gguf file of the LLM.'
        )
    if metadata.get('general.type', 'model') != 'model':
        raise ValueError(
            f'{path} is a file of type {metadata["general.type"]!r}, not a '
            'complete LLM; give the .gguf file of the LLM.'
        )
    if name not in _ARCHITECTURES:
        raise ValueError(
            f'{path} has an LLM of the architecture {name!r}; GGUF files of '
            f'{", ".join(_ARCHITECTURES)} are supported: give the Hugging '
            'Face folder of this LLM.'
        )
    model_type, class_name = _ARCHITECTURES[name]
    config: dict[str, Any] = dict(
        architectures=[class_name], model_type=model_type
    )
    for key, gguf_key in _REQUIRED.items():
        config[key] = _integer(header, gguf_key)
    config['num_key_value_heads'] = _integer(
        header, 'attention.head_count_kv', config['num_attention_heads']
    )
    if _integer(header, 'expert_count', 0):
        raise ValueError(
            f'{path} has an LLM with experts, which is not supported; give '
            'the Hugging Face folder of this LLM.'
        )
    head_dim = config['hidden_size'] // config['num_attention_heads']
    config['head_dim'] = _integer(
        header,
        'attention.key_length',
        _integer(header, 'rope.dimension_count', head_dim),
    )
    config['rms_norm_eps'] = _number(
        header, 'attention.layer_norm_rms_epsilon'
    )
    config['rope_theta'] = _number(header, 'rope.freq_base', 10000.0)
    config['rope_scaling'] = _rope_scaling(header, config)
    if 'token_embd.weight' not in header.tensors:
        raise ValueError(
            f'{path} has no token_embd.weight, so no complete LLM; give '
            'another file.'
        )
    config['vocab_size'] = header.tensors['token_embd.weight'].shape[0]
    config['tie_word_embeddings'] = 'output.weight' not in header.tensors
    config['hidden_act'] = 'silu'
    config['torch_dtype'] = _dtype(header)
    return config | _special_ids(header)


def tensor_names(header: GgufHeader, config: dict[str, Any]) -> dict[str, str]:
    """Return the Hugging Face names of a file's tensors, by their names.

    Args:
        header: The file's header.
        config: Its Hugging Face config.

    Raises:
        ValueError: The file has a tensor that the architecture does not
            have. Tensors that it lacks are found when the LLM is loaded.
    """
    names = dict(_TENSORS)
    for layer in range(config['num_hidden_layers']):
        for name, hf_name in _LAYER_TENSORS.items():
            for suffix in ('weight', 'bias'):
                names[f'blk.{layer}.{name}.{suffix}'] = (
                    f'model.layers.{layer}.{hf_name}.{suffix}'
                )
    unknown = sorted(
        header.tensors.keys() - names.keys() - {_ROPE_FACTORS}
    ) or [
        name
        for name in header.tensors
        if name.endswith('.bias')
        and not (
            config['model_type'] == 'qwen2'
            and name.split('.')[2] in ('attn_q', 'attn_k', 'attn_v')
        )
    ]
    if unknown:
        raise ValueError(
            f'{header.path} has {len(unknown)} tensors that an LLM of the '
            f'architecture {header.architecture} does not have, e.g. '
            f'{unknown[0]}; give the Hugging Face folder of this LLM.'
        )
    return {name: names[name] for name in header.tensors if name in names}


def _get(header: GgufHeader, key: str) -> Any:
    return header.metadata.get(f'{header.architecture}.{key}')


def _integer(header: GgufHeader, key: str, default: int | None = None) -> int:
    """Return a setting of the architecture that is one integer.

    Raises:
        ValueError: It is missing or something else.
    """
    value = _get(header, key)
    if value is None and default is not None:
        return default
    if type(value) is not int or value < 0:
        raise _setting_error(header, key, value, 'an integer')
    return value


def _number(
    header: GgufHeader, key: str, default: float | None = None
) -> float:
    """Return a setting of the architecture that is one number.

    It is rounded to 7 digits, since the file has it in fp32.

    Raises:
        ValueError: It is missing or something else.
    """
    value = _get(header, key)
    if value is None and default is not None:
        return default
    if type(value) not in (int, float) or not math.isfinite(value):
        raise _setting_error(header, key, value, 'a number')
    return float(f'{value:.7g}')


def _setting_error(
    header: GgufHeader, key: str, value: object, expected: str
) -> ValueError:
    found = 'nothing' if value is None else repr(value)[:40]
    return ValueError(
        f'{header.path} has {found} as {header.architecture}.{key}; expected '
        f'{expected}: give another file, or the Hugging Face folder.'
    )


def _rope_scaling(
    header: GgufHeader, config: dict[str, Any]
) -> dict[str, Any] | None:
    """Return the scaling of the rotary position embedding.

    Raises:
        ValueError: It is one that cannot be expressed in a config.
    """
    if _ROPE_FACTORS in header.tensors:
        return _llama3_scaling(header, config)
    kind = _get(header, 'rope.scaling.type')
    if kind in (None, 'none'):
        return None
    if kind == 'linear':
        factor = _number(header, 'rope.scaling.factor')
        return dict(rope_type='linear', factor=factor)
    if kind == 'yarn':
        return dict(
            rope_type='yarn',
            factor=_number(header, 'rope.scaling.factor'),
            original_max_position_embeddings=_integer(
                header, 'rope.scaling.original_context_length'
            ),
        )
    raise _setting_error(
        header, 'rope.scaling.type', kind, "'none', 'linear' or 'yarn'"
    )


def _llama3_scaling(
    header: GgufHeader, config: dict[str, Any]
) -> dict[str, Any]:
    """Find the settings of Llama 3 that give the frequency factors.

    Source: ``_compute_llama3_parameters`` in transformers 5.17,
    modeling_rope_utils.py; llama.cpp stores its result only.

    Raises:
        ValueError: No settings give them.
    """
    tensor = header.tensors[_ROPE_FACTORS]
    if tensor.type_name == 'F32' and len(tensor.shape) == 1:
        factors = np.fromfile(
            header.path, '<f4', tensor.n_values, offset=tensor.offset
        )
        factor = float(factors.max())
        low, high, length = _LLAMA3_ROPE.values()
        dim = 2 * tensor.n_values
        wavelengths = (
            2 * np.pi * config['rope_theta'] ** (np.arange(0, dim, 2) / dim)
        )
        smooth = ((length / wavelengths - low) / (high - low)).clip(0, 1)
        expected = 1 / ((1 - smooth) / factor + smooth)
        if np.allclose(factors, expected, rtol=1e-3):
            return dict(rope_type='llama3', factor=factor, **_LLAMA3_ROPE)
    raise ValueError(
        f'{header.path} has factors of the rotary frequencies '
        f'({_ROPE_FACTORS}) that are not those of Llama 3; give the Hugging '
        'Face folder of this LLM.'
    )


def _dtype(header: GgufHeader) -> str:
    """Return the type for the weights.

    The types of unquantised files are kept. Quantised values become fp16: of
    SmolLM2-135M in Q4_1, compared with fp32, it changes the logits of a chat
    of 44 tokens by 0.008 (root mean square; the logits have 8.2), bf16 by
    0.047, and both take half the memory.
    """
    counts: dict[str, int] = {}
    for tensor in header.tensors.values():
        name = tensor.type_name
        counts[name] = counts.get(name, 0) + tensor.n_values
    most = max(counts, key=lambda name: counts[name])
    return dict(BF16='bfloat16', F32='float32').get(most, 'float16')


def _special_ids(header: GgufHeader) -> dict[str, Any]:
    """Return begin, end and padding ids of the config."""

    def get(role: str) -> int | None:
        value = header.metadata.get(f'tokenizer.ggml.{role}_token_id')
        return value if type(value) is int else None

    ends = [i for i in (get('eos'), get('eot')) if i is not None]
    ends = list(dict.fromkeys(ends))
    ids = dict(
        bos_token_id=get('bos'),
        eos_token_id=ends[0] if len(ends) == 1 else ends or None,
        pad_token_id=get('padding'),
    )
    return {role: i for role, i in ids.items() if i is not None}
