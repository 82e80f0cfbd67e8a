"""Stage 2 on the nano model, ablation (a) no Q-Former (paper 4.4)."""

from mmengine.config import read_base

from minigpt4.models import PatchMerge

with read_base():
    from .stage2_nano import *

model['neck'] = dict(type=PatchMerge, merge=4)
