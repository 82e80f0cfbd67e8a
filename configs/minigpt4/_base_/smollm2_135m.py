"""MiniGPT-4 with SmolLM2-135M-Instruct: 442,944 weights trained."""

from mmengine.config import read_base

with read_base():
    from .vicuna_7b import *

model['decoder'].update(
    name_or_path='HuggingFaceTB/SmolLM2-135M-Instruct',
    # sizes of its published config.json
    arch=dict(
        model_type='llama',
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=49152,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    ),
)
model.update(prompt_template='chat')
