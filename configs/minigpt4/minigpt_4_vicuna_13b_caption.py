"""minigpt-4_vicuna-13b_caption of the model hub: inference alone."""

from mmengine.config import read_base

with read_base():
    from ._base_.caption import *
    from ._base_.vicuna_13b import *

model.update(device='auto')
