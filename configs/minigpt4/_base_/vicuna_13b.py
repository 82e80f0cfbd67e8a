"""MiniGPT-4 with Vicuna-13B (v0): 3,937,280 weights trained."""

from mmengine.config import read_base

with read_base():
    from .vicuna_7b import *

model['decoder'].update(
    name_or_path='Vision-CAIR/vicuna',
    arch=dict(
        model_type='llama',
        hidden_size=5120,
        intermediate_size=13824,
        num_hidden_layers=40,
        num_attention_heads=40,
        vocab_size=32000,
    ),
)
