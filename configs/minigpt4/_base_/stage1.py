"""Stage 1 (paper 3.1): 20,000 x 256 image-text pairs, no prompt."""

from mmengine.config import read_base
from mmengine.optim import OptimWrapper
from torch.optim import AdamW

from minigpt4.datasets import (
    CleanCaption,
    ImageTextPairs,
    LoadImages,
    PackSample,
)
from minigpt4.engine import EndlessTrainLoop, TrainedParameters, WarmupCosineLR

with read_base():
    from .runtime import *

max_iters = 20000
global_batch_size = 256
# settings of the model that the stage sets: model.update(stage_model)
stage_model = dict(prompt_template='bare', prompt='', max_text_length=32)

train_dataloader = dict(
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,
    sampler=None,
    dataset=dict(
        type=ImageTextPairs,
        sources=[
            dict(
                name='laion',
                shards='data/laion/laion_dataset/{00000..10488}.tar',
                weight=115,
            ),
            dict(
                name='cc_sbu',
                shards='data/cc_sbu/cc_sbu_dataset/{00000..01255}.tar',
                weight=14,
            ),
        ],
        pipeline=[
            dict(type=LoadImages, size=224),
            dict(type=CleanCaption, max_words=50),
            dict(type=PackSample),
        ],
    ),
)
train_cfg = dict(type=EndlessTrainLoop)
optim_wrapper = dict(
    type=OptimWrapper,
    constructor=TrainedParameters,
    optimizer=dict(type=AdamW, lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
)
param_scheduler = [
    dict(
        type=WarmupCosineLR,
        by_epoch=False,
        warmup=5000,
        start=1e-6,
        minimum=8e-5,
    )
]
