"""Stage 2 on the nano model: learn to describe from a few descriptions.

bash tools/dist_train.sh configs/minigpt4/stage2_nano.py 1 \
    --cfg-options load_from=work_dirs/stage1_nano/iter_800.pth
"""

from mmengine.config import read_base

with read_base():
    from ._base_.nano import *
    from ._base_.nano_test import *
    from ._base_.stage2 import *

model.update(stage_model)
randomness.update(seed=1)  # as in stage1_nano.py
train_dataloader.update(num_workers=1, pin_memory=False)
train_dataloader['dataset'].update(data_root='data/nano/stage2')
train_dataloader['dataset']['pipeline'][0].update(size=image_size)
optim_wrapper['optimizer'].update(lr=2e-2)
param_scheduler[0].update(warmup=40, start=1e-4, minimum=1e-3)
