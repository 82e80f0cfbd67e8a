"""minigpt-4_smollm2-1.7b_caption of the model hub: inference alone."""

from mmengine.config import read_base

with read_base():
    from ._base_.caption import *
    from ._base_.smollm2_1_7b import *

model.update(device='auto')
