"""MiniGPT-4 with LLaMA-2-7B chat and no Q-Former: 23,072,768 trained."""

from mmengine.config import read_base

from minigpt4.models import PatchMerge

with read_base():
    from .vicuna_7b import *

model['neck'] = dict(type=PatchMerge, merge=4)
model.update(prompt_template='llama2')
model['decoder'].update(name_or_path='meta-llama/Llama-2-7b-chat-hf')
# Vicuna of the same size has 2048
model['decoder']['arch'].update(max_position_embeddings=4096)
