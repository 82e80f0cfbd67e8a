"""Stage 1 on the nano model, ablation (b) three layers (paper 4.4)."""

from mmengine.config import read_base

with read_base():
    from .stage1_nano import *

model['head'].update(num_layers=3)
# several layers diverge with the rate of one
optim_wrapper['optimizer'].update(lr=2e-3)
