"""Stage 2 on the nano model with LoRA and short answers, and its test.

bash tools/dist_train.sh configs/minigpt4/stage2_nano_finetune_vicuna.py 1 \
    --cfg-options load_from=work_dirs/stage1_nano/iter_800.pth
"""

from mmengine.config import read_base

from minigpt4.datasets import (
    InstructionDataset,
    LoadImages,
    MixedDataset,
    MixedSampler,
    PackSample,
)

with read_base():
    from .stage2_nano import *

model['decoder'].update(
    lora=dict(
        r=8,
        lora_alpha=16,
        lora_dropout=0.05,
        target_modules=['q_proj', 'v_proj'],
    )
)
# the language model is pretrained: 2e-2, the rate of the projection, ruins it
optim_wrapper.update(
    paramwise_cfg=dict(custom_keys={'decoder': dict(lr_mult=0.05)})
)
train_dataloader['sampler'] = dict(type=MixedSampler)
# update() would merge it into the data set that it contains
train_dataloader['dataset'] = dict(
    type=MixedDataset,
    datasets=[
        train_dataloader['dataset'],
        dict(
            type=InstructionDataset,
            ann_file='questions.json',
            data_root='data/nano/stage2',
            pipeline=[
                dict(type=LoadImages, size=image_size),
                dict(type=PackSample),
            ],
        ),
    ],
    weights=[1, 1],
)
