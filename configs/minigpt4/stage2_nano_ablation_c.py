"""Stage 2 on the nano model, ablation (c) Q-Former trained (paper 4.4)."""

from mmengine.config import read_base

with read_base():
    from .stage2_nano import *

model['neck'].update(frozen=False)
# the Q-Former is pretrained, the projection is not
optim_wrapper.update(
    paramwise_cfg=dict(custom_keys={'neck': dict(lr_mult=0.02)})
)
