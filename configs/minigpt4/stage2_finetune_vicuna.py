"""Stage 2 with Vicuna-7B, "Finetune Vicuna": LoRA and short answers too.

bash tools/dist_train.sh configs/minigpt4/stage2_finetune_vicuna.py 1 \
    --cfg-options load_from=work_dirs/stage1/iter_20000.pth
"""

from mmengine.config import read_base

from minigpt4.datasets import MixedDataset, MixedSampler

with read_base():
    from ._base_.finetune_vicuna import *
    from .stage2 import *

model['decoder'].update(lora=lora)
train_dataloader['sampler'] = dict(type=MixedSampler)
# update() would merge it into the data set that it contains
train_dataloader['dataset'] = dict(
    type=MixedDataset,
    datasets=[train_dataloader['dataset'], *question_datasets],
    weights=mixture_weights,
)
