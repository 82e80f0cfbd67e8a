"""MiniGPT-4 with Vicuna-7B (v0): 3,149,824 of 7.8 billion weights trained."""

from minigpt4.models import (
    EVAViT,
    LinearProjector,
    LLMDecoder,
    MiniGPT4,
    QFormer,
)

image_size = 224
model = dict(
    type=MiniGPT4,
    backbone=dict(
        type=EVAViT,
        arch='eva-g',
        img_size=image_size,
        patch_size=14,
        checkpoint='https://storage.googleapis.com/'
        'sfr-vision-language-research/LAVIS/models/BLIP2/eva_vit_g.pth',
    ),
    neck=dict(
        type=QFormer,
        num_queries=32,
        checkpoint='https://storage.googleapis.com/'
        'sfr-vision-language-research/LAVIS/models/BLIP2/'
        'blip2_pretrained_flant5xxl.pth',
    ),
    head=dict(type=LinearProjector, num_layers=1),
    decoder=dict(
        type=LLMDecoder,
        # the environment variable MINIGPT4_LLM takes precedence
        name_or_path='Vision-CAIR/vicuna-7b',
        dtype='auto',
        arch=dict(
            model_type='llama',
            hidden_size=4096,
            intermediate_size=11008,
            num_hidden_layers=32,
            num_attention_heads=32,
            vocab_size=32000,
        ),
    ),
    prompt_template='vicuna_v0',
    prompt='Describe this image in detail.',
    generation=dict(max_new_tokens=300),
)
