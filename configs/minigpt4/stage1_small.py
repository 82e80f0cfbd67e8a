"""Stage 1 on the small model: align on captions of real photographs.

python tools/photo_data.py FOLDER --out data/photos
bash tools/dist_train.sh configs/minigpt4/stage1_small.py 1
"""

from mmengine.config import read_base

from minigpt4.datasets import (
    DrawFlip,
    EndlessSampler,
    InstructionDataset,
    LoadImages,
    PackSample,
)
from minigpt4.engine import WarmStartHook

with read_base():
    from ._base_.small import *
    from ._base_.stage1 import *

max_iters = 800
global_batch_size = 20
model.update(stage_model)

train_dataloader.update(
    num_workers=1,
    pin_memory=False,
    sampler=dict(type=EndlessSampler),
)
train_dataloader['dataset'] = dict(
    type=InstructionDataset,
    ann_file='captions_train.json',
    data_root='data/photos',
    image_folder='',
    pipeline=[
        dict(type=DrawFlip),
        dict(type=LoadImages, size=image_size),
        dict(type=PackSample),
    ],
)
optim_wrapper.update(small_optim_wrapper)
optim_wrapper['optimizer'].update(lr=2e-4, betas=(0.9, 0.99))
param_scheduler[0].update(warmup=20, start=1e-5, minimum=1e-5)
default_hooks['warm_start'] = dict(type=WarmStartHook, gain=6)
default_hooks['checkpoint'].update(interval=200)
default_hooks['logger'].update(interval=20)
default_hooks['sample_captions'].update(
    interval=200, dataset=held_out_photographs
)
