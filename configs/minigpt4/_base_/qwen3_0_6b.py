"""MiniGPT-4 with Qwen3-0.6B: 787,456 weights trained."""

from mmengine.config import read_base

with read_base():
    from .vicuna_7b import *

model['decoder'].update(
    name_or_path='Qwen/Qwen3-0.6B',
    # sizes of its published config.json
    arch=dict(
        model_type='qwen3',
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=28,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        vocab_size=151936,
        max_position_embeddings=40960,
        tie_word_embeddings=True,
    ),
)
model.update(prompt_template='chat')
