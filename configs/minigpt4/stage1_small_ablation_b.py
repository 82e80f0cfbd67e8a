"""Stage 1 on the small model, ablation (b) three layers (paper 4.4)."""

from mmengine.config import read_base

with read_base():
    from .stage1_small import *

model['head'].update(num_layers=3)
default_hooks.pop('warm_start')  # it sets one linear layer
