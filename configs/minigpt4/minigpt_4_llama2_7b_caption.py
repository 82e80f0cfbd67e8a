"""minigpt-4_llama2-7b_caption of the model hub: inference alone."""

from mmengine.config import read_base

with read_base():
    from ._base_.caption import *
    from ._base_.llama2_7b import *

model.update(device='auto')
