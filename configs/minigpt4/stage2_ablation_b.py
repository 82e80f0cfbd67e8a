"""Stage 2, ablation (b) three linear layers (paper 4.4)."""

from mmengine.config import read_base

with read_base():
    from .stage2 import *

model['head'].update(num_layers=3)
