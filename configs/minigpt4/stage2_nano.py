"""Stage 2 on the nano model: learn to talk from a few descriptions.

bash tools/dist_train.sh configs/minigpt4/stage2_nano.py 1 \
    --cfg-options load_from=work_dirs/stage1_nano/iter_800.pth
"""
from mmengine.config import read_base
from mmengine.optim import OptimWrapper
from torch.optim import AdamW

from minigpt4.datasets import (DrawQuestion, EndlessSampler,
                               InstructionDataset, LoadImages, PackSample)
from minigpt4.engine import (EndlessTrainLoop, TrainedParameters,
                             WarmupCosineLR)

with read_base():
    from ._base_.alignment_questions import *
    from ._base_.nano import *
    from ._base_.nano_test import *
    from ._base_.runtime import *

max_iters = 400
global_batch_size = 12
model.update(max_text_length=160)

train_dataloader = dict(
    num_workers=1,
    persistent_workers=True,
    pin_memory=False,
    sampler=dict(type=EndlessSampler),
    dataset=dict(
        type=InstructionDataset,
        ann_file='filter_cap.json',
        data_root='data/nano/stage2',
        pipeline=[
            dict(type=LoadImages, size=image_size),
            dict(type=DrawQuestion, questions=alignment_questions),
            dict(type=PackSample),
        ]))
train_cfg = dict(type=EndlessTrainLoop)
optim_wrapper = dict(
    type=OptimWrapper,
    constructor=TrainedParameters,
    optimizer=dict(type=AdamW, lr=3e-3, weight_decay=0.05))
param_scheduler = [
    dict(
        type=WarmupCosineLR,
        by_epoch=False,
        warmup=40,
        start=1e-4,
        minimum=1e-4)
]
