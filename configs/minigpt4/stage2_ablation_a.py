"""Stage 2, ablation (a) no Q-Former: patches go to the LLM (paper 4.4)."""

from mmengine.config import read_base

from minigpt4.models import PatchMerge

with read_base():
    from .stage2 import *

model['neck'] = dict(type=PatchMerge, merge=4)
