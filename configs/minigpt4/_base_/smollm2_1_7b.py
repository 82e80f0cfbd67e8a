"""MiniGPT-4 with SmolLM2-1.7B-Instruct: 1,574,912 weights trained."""

from mmengine.config import read_base

with read_base():
    from .vicuna_7b import *

model['decoder'].update(
    name_or_path='HuggingFaceTB/SmolLM2-1.7B-Instruct',
    # sizes of its published config.json
    arch=dict(
        model_type='llama',
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=24,
        num_attention_heads=32,
        num_key_value_heads=32,
        vocab_size=49152,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    ),
)
model.update(prompt_template='chat')
