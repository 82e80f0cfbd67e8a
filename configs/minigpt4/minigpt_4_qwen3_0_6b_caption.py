"""minigpt-4_qwen3-0.6b_caption of the model hub: inference alone."""

from mmengine.config import read_base

with read_base():
    from ._base_.caption import *
    from ._base_.qwen3_0_6b import *

model.update(device='auto')
