"""DPO on the nano model, after stage 2; also its test.

bash tools/dist_train.sh configs/minigpt4/dpo_nano.py 1 \
    --cfg-options load_from=work_dirs/stage2_nano/iter_400.pth
"""

from mmengine.config import read_base

with read_base():
    from ._base_.dpo import *
    from ._base_.nano import *
    from ._base_.nano_test import *

max_iters = 40
model.update(stage_model)
train_dataloader.update(num_workers=1, pin_memory=False)
train_dataloader['dataset'].update(data_root='data/nano/preference')
train_dataloader['dataset']['pipeline'][0].update(size=image_size)
optim_wrapper['optimizer'].update(lr=3e-4)
param_scheduler[0].update(warmup=10, start=3e-5, minimum=3e-5)
default_hooks['logger'].update(interval=10)
