"""Stage 2, ablation (c) the Q-Former is trained too (paper 4.4)."""

from mmengine.config import read_base

with read_base():
    from .stage2 import *

model['neck'].update(frozen=False)
