# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Write small GGUF files of random LLMs."""

from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import dequantize, quantize
from tokenizers import pre_tokenizers
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

SPECIAL = ('<|endoftext|>', '<|im_start|>', '<|im_end|>')
MERGES = ('Ġ c', 'a t', 'Ġc at', '2 0', '20 2', '202 4')
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n'"
    " + message['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SIZES = dict(
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=128,
    rope_theta=100000.0,
    rms_norm_eps=1e-5,
    initializer_range=0.2,
)
LAYER = {
    'input_layernorm': 'attn_norm',
    'self_attn.q_proj': 'attn_q',
    'self_attn.k_proj': 'attn_k',
    'self_attn.v_proj': 'attn_v',
    'self_attn.o_proj': 'attn_output',
    'self_attn.q_norm': 'attn_q_norm',
    'self_attn.k_norm': 'attn_k_norm',
    'post_attention_layernorm': 'ffn_norm',
    'mlp.gate_proj': 'ffn_gate',
    'mlp.up_proj': 'ffn_up',
    'mlp.down_proj': 'ffn_down',
}


def vocabulary() -> list[str]:
    """The special tokens, the 256 bytes, and the results of the merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return [*SPECIAL, *alphabet, *(m.replace(' ', '') for m in MERGES)]


def random_llm(architecture: str = 'llama', tied: bool = True, **settings):
    """A random causal LM of transformers with two layers, in fp32."""
    if architecture not in CONFIG_MAPPING:
        pytest.skip(f'this transformers does not have {architecture}')
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        architecture,
        vocab_size=len(vocabulary()),
        tie_word_embeddings=tied,
        **SIZES | settings,
    )
    llm = AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for parameter in llm.parameters():
            if parameter.ndim == 1:  # norms and biases, else ones and zeros
                parameter += 0.2 * torch.randn_like(parameter)
    return llm


def write_gguf(
    path: Path,
    llm=None,
    architecture: str = 'llama',
    kind: str = 'F16',
    pre: str = 'smollm',
    tokenizer: bool = True,
    change=None,
) -> Path:
    """Write the GGUF file of an LLM, whose matrices become quantised.

    The LLM then has the values that the file has.

    Args:
        path: The file.
        llm: A result of :func:`random_llm`.
        architecture: Its architecture in the file.
        kind: Type of its matrices in the file; norms are F32.
        pre: The rule to split texts.
        tokenizer: Whether to write a byte-level BPE.
        change: Function of the writer that adds or replaces entries.
    """
    llm = llm or random_llm()
    config = llm.config
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(path, architecture)
    writer.add_name('test')
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(100000.0)
    writer.add_rope_dimension_count(16)
    if architecture == 'qwen3':
        writer.add_key_length(16)
    if tokenizer:
        tokens = vocabulary()
        writer.add_tokenizer_model('gpt2')
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(tokens)
        writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
        writer.add_token_merges(list(MERGES))
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)
        writer.add_pad_token_id(2)
        writer.add_chat_template(TEMPLATE)
        writer.add_add_bos_token(pre == 'llama-bpe')
    if change is not None:
        change(writer)
    heads = dict(
        attn_q=config.num_attention_heads, attn_k=config.num_key_value_heads
    )
    for name, parameter in llm.named_parameters():
        values = parameter.detach()
        matrix_kind = GGMLQuantizationType[kind if values.ndim > 1 else 'F32']
        gguf_name = _gguf_name(name)
        part = gguf_name.split('.')[-2]
        if architecture == 'llama' and part in heads:
            # llama.cpp's convert_hf_to_gguf.py, LlamaModel.permute
            values = values.reshape(heads[part], 2, -1, values.shape[-1])
            values = values.transpose(1, 2).reshape(parameter.shape)
        blocks = quantize(values.contiguous().numpy(), matrix_kind)
        writer.add_tensor(gguf_name, blocks, raw_dtype=matrix_kind)
        # blocks lie within a row, so rows may be in any order
        rounded = quantize(parameter.detach().numpy(), matrix_kind)
        parameter.data = torch.from_numpy(
            dequantize(rounded, matrix_kind).reshape(parameter.shape).copy()
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _gguf_name(name: str) -> str:
    """The name of a tensor in a GGUF file."""
    fixed = {
        'model.embed_tokens.weight': 'token_embd.weight',
        'model.norm.weight': 'output_norm.weight',
        'lm_head.weight': 'output.weight',
    }
    if name in fixed:
        return fixed[name]
    _, _, layer, rest = name.split('.', 3)
    part, _, suffix = rest.rpartition('.')
    return f'blk.{layer}.{LAYER[part]}.{suffix}'
