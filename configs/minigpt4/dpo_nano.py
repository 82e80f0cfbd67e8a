"""DPO on the nano model, after stage 2; also its test.

bash tools/dist_train.sh configs/minigpt4/dpo_nano.py 1 \
    --cfg-options load_from=work_dirs/stage2_nano/iter_400.pth
"""

from mmengine.config import read_base

with read_base():
    from ._base_.dpo import *
    from ._base_.nano import *
    from ._base_.nano_test import *

max_iters = 100  # one pass over the pairs
model.update(stage_model)
train_dataloader.update(num_workers=1, pin_memory=False)
train_dataloader['dataset'].update(data_root='data/nano/preference')
train_dataloader['dataset']['pipeline'][0].update(size=image_size)
optim_wrapper['optimizer'].update(lr=2e-3)
param_scheduler[0].update(warmup=20, start=1e-4, minimum=1e-4)
