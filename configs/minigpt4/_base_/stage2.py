"""Stage 2 (paper 3.3): 400 x 12 of 3,500 curated descriptions."""

from mmengine.config import read_base
from mmengine.optim import OptimWrapper
from torch.optim import AdamW

from minigpt4.datasets import (
    DrawQuestion,
    EndlessSampler,
    InstructionDataset,
    LoadImages,
    PackSample,
)
from minigpt4.engine import EndlessTrainLoop, TrainedParameters, WarmupCosineLR

with read_base():
    from .runtime import *

# MiniGPT-4 prompts/alignment.txt @ d94738a
alignment_questions = (
    'Describe this image in detail.',
    'Take a look at this image and describe what you notice.',
    'Please provide a detailed description of the picture.',
    'Could you describe the contents of this image for me?',
)
max_iters = 400
needs_load_from = True  # a projection of stage 1
global_batch_size = 12
# settings of the model that the stage sets: model.update(stage_model)
stage_model = dict(max_text_length=160)
default_hooks['checkpoint'].update(interval=100)
default_hooks['sample_captions'].update(interval=100)

train_dataloader = dict(
    num_workers=4,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type=EndlessSampler),
    dataset=dict(
        type=InstructionDataset,
        ann_file='filter_cap.json',
        data_root='data/cc_sbu_align',
        pipeline=[
            dict(type=LoadImages, size=224),
            dict(type=DrawQuestion, questions=alignment_questions),
            dict(type=PackSample),
        ],
    ),
)
train_cfg = dict(type=EndlessTrainLoop)
optim_wrapper = dict(
    type=OptimWrapper,
    constructor=TrainedParameters,
    optimizer=dict(type=AdamW, lr=3e-5, betas=(0.9, 0.999), weight_decay=0.05),
)
# a fifth of all iterations, as the official code has (200 of 1,000)
param_scheduler = [
    dict(
        type=WarmupCosineLR,
        by_epoch=False,
        warmup=80,
        start=1e-6,
        minimum=1e-5,
    )
]
