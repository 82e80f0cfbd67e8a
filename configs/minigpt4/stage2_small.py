"""Stage 2 on the small model: learn to describe from a few descriptions.

bash tools/dist_train.sh configs/minigpt4/stage2_small.py 2 \
    --cfg-options load_from=work_dirs/stage1_small/iter_800.pth
"""

from mmengine.config import read_base

with read_base():
    from ._base_.small import *
    from ._base_.stage2 import *

max_iters = 200
global_batch_size = 4
model.update(stage_model)

train_dataloader.update(num_workers=1, pin_memory=False)
train_dataloader['dataset'].update(
    ann_file='descriptions_train.json',
    data_root='data/photos',
    image_folder='',
)
train_dataloader['dataset']['pipeline'][0].update(size=image_size)
optim_wrapper.update(small_optim_wrapper)
optim_wrapper['optimizer'].update(lr=2e-4, betas=(0.9, 0.99))
param_scheduler[0].update(warmup=10, start=1e-5, minimum=1e-5)
default_hooks['logger'].update(interval=20)
default_hooks['sample_captions'].update(dataset=held_out_photographs)
