"""minigpt-4_vicuna-13b_caption of the model hub: inference alone."""

from mmengine.config import read_base

from minigpt4.datasets import LoadImages, PackSample

with read_base():
    from ._base_.vicuna_13b import *

model.update(device='auto')
test_dataloader = dict(
    dataset=dict(
        type='minigpt4.InstructionDataset',
        pipeline=[
            dict(type=LoadImages, size=image_size),
            dict(type=PackSample),
        ],
    )
)
