"""BLIP-2 with OPT-2.7B, in the files of its import.

minigpt4 convert Salesforce/blip2-opt-2.7b -o weights/blip2_opt --with-opt
"""

from mmengine.config import read_base

with read_base():
    from .vicuna_7b import *

model['backbone'].update(checkpoint='weights/blip2_opt/eva_vit.safetensors')
model['neck'].update(checkpoint='weights/blip2_opt/q_former.safetensors')
model['decoder'].update(
    name_or_path='weights/blip2_opt/llm',
    arch=dict(
        model_type='opt',
        hidden_size=2560,
        ffn_dim=10240,
        num_hidden_layers=32,
        num_attention_heads=32,
        word_embed_proj_dim=2560,
        vocab_size=50272,
    ),
)
