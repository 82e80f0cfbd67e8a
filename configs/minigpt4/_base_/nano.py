"""The nano model: the complete system at a two-thousandth of the size."""

from minigpt4.models import (
    EVAViT,
    LinearProjector,
    LLMDecoder,
    MiniGPT4,
    QFormer,
)

image_size = 64
model = dict(
    type=MiniGPT4,
    backbone=dict(
        type=EVAViT,
        arch='nano',
        img_size=image_size,
        patch_size=8,
        checkpoint='nano/eva_vit.safetensors',
    ),
    neck=dict(
        type=QFormer,
        in_channels=128,
        num_queries=22,
        width=128,
        depth=2,
        num_heads=4,
        mlp_width=512,
        cross_every=1,
        checkpoint='nano/q_former.safetensors',
    ),
    head=dict(type=LinearProjector, num_layers=1),
    decoder=dict(
        type=LLMDecoder,
        name_or_path='nano/llm',
        arch=dict(
            model_type='llama',
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=4,
            num_attention_heads=6,
            vocab_size=768,
        ),
    ),
    prompt_template='vicuna_v0',
    prompt='Describe this image in detail.',
    system='',  # its LLM was trained without a system message
    generation=dict(max_new_tokens=80),
)
