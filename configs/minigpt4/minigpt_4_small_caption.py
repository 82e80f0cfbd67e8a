"""minigpt-4_small_caption of the model hub: inference alone."""

from mmengine.config import read_base

with read_base():
    from ._base_.caption import *
    from ._base_.small import *

model.update(device='auto')
test_dataloader['dataset']['pipeline'][0].update(size=image_size)
