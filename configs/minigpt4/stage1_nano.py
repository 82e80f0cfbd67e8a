"""Stage 1 on the nano model: align on noisy web captions.

bash tools/dist_train.sh configs/minigpt4/stage1_nano.py 2
"""

from mmengine.config import read_base

from minigpt4.datasets import InstructionDataset, LoadImages, PackSample

with read_base():
    from ._base_.nano import *
    from ._base_.stage1 import *

max_iters = 800
# of seed 42, the default, 0.75 of the places are right (docs/nano.md)
randomness.update(seed=1)
global_batch_size = 32
model.update(stage_model)

train_dataloader.update(num_workers=1, pin_memory=False)
train_dataloader['dataset'].update(
    sources=[
        dict(name='a', shards='data/nano/stage1/a/*.tar', weight=115),
        dict(name='b', shards='data/nano/stage1/b/*.tar', weight=14),
    ],
)
train_dataloader['dataset']['pipeline'][0].update(size=image_size)
optim_wrapper['optimizer'].update(lr=2e-2)
param_scheduler[0].update(warmup=50, start=1e-4, minimum=1e-3)
default_hooks['checkpoint'].update(interval=200)
default_hooks['sample_captions'].update(
    interval=400,
    dataset=dict(
        type=InstructionDataset,
        ann_file='descriptions.json',
        data_root='data/nano/test',
        limit=4,
        keep_answers=False,
        pipeline=[
            dict(type=LoadImages, size=image_size),
            dict(type=PackSample),
        ],
    ),
)
