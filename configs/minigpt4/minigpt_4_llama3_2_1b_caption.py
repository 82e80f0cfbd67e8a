"""minigpt-4_llama3.2-1b_caption of the model hub: inference alone."""

from mmengine.config import read_base

with read_base():
    from ._base_.caption import *
    from ._base_.llama3_2_1b import *

model.update(device='auto')
