"""Stage 1 on the nano model: align on noisy web captions.

bash tools/dist_train.sh configs/minigpt4/stage1_nano.py 2
"""
from mmengine.config import read_base
from mmengine.optim import OptimWrapper
from torch.optim import AdamW

from minigpt4.datasets import (CleanCaption, ImageTextPairs,
                               InstructionDataset, LoadImages, PackSample)
from minigpt4.engine import (EndlessTrainLoop, SampleCaptionsHook,
                             TrainedParameters, WarmupCosineLR)

with read_base():
    from ._base_.nano import *
    from ._base_.runtime import *

data_root = 'data/nano'
max_iters = 800
global_batch_size = 32
model.update(prompt_template='bare', max_text_length=32)

train_dataloader = dict(
    num_workers=1,
    persistent_workers=True,
    pin_memory=False,
    sampler=None,
    dataset=dict(
        type=ImageTextPairs,
        sources=[
            dict(name='a', shards=f'{data_root}/stage1/a/*.tar', weight=115),
            dict(name='b', shards=f'{data_root}/stage1/b/*.tar', weight=14),
        ],
        pipeline=[
            dict(type=LoadImages, size=image_size),
            dict(type=CleanCaption),
            dict(type=PackSample),
        ]))
train_cfg = dict(type=EndlessTrainLoop)
optim_wrapper = dict(
    type=OptimWrapper,
    constructor=TrainedParameters,
    optimizer=dict(type=AdamW, lr=1e-2, weight_decay=0.05))
param_scheduler = [
    dict(
        type=WarmupCosineLR,
        by_epoch=False,
        warmup=50,
        start=1e-4,
        minimum=5e-4)
]
default_hooks.update(
    checkpoint=dict(
        type=default_hooks['checkpoint']['type'],
        by_epoch=False,
        interval=200,
        max_keep_ckpts=3,
        backend_args=dict(backend='atomic')))
custom_hooks += [
    dict(
        type=SampleCaptionsHook,
        interval=400,
        dataset=dict(
            type=InstructionDataset,
            ann_file='test.json',
            data_root=f'{data_root}/test',
            limit=4,
            keep_answers=False,
            pipeline=[
                dict(type=LoadImages, size=image_size),
                dict(type=PackSample)
            ]))
]
