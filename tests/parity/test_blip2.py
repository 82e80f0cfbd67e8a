# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""EVAViT and QFormer compute what transformers' BLIP-2 does."""

import torch
from transformers import (
    Blip2QFormerConfig,
    Blip2QFormerModel,
    Blip2VisionConfig,
    Blip2VisionModel,
)

from minigpt4.models import EVAViT, QFormer


def randomize(module):
    """Weights large enough for every bias, norm and GELU to matter."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator) * 0.3
        norm = 'norm' in name and name.endswith('weight')
        parameter.data = noise + 1 if norm else noise
    return module


def rename(tensors, *pairs):
    """State dict with ``(ours, theirs)`` replaced in its names."""
    out = {}
    for name, tensor in tensors.items():
        for ours, theirs in pairs:
            name = name.replace(ours, theirs)
        out[name] = tensor
    return out


def test_eva_vit():
    ours = randomize(
        EVAViT(
            dict(width=32, depth=3, num_heads=4, mlp_width=48),
            img_size=42,
            dtype='float32',
        )
    )
    theirs = Blip2VisionModel(
        Blip2VisionConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            image_size=42,
            patch_size=14,
            hidden_act='gelu',
            qkv_bias=True,
        )
    ).eval()
    tensors = rename(
        ours.state_dict(),
        ('cls_token', 'embeddings.class_embedding'),
        ('pos_embed', 'embeddings.position_embedding'),
        ('patch_embed.proj', 'embeddings.patch_embedding'),
        ('blocks', 'encoder.layers'),
        ('norm1', 'layer_norm1'),
        ('norm2', 'layer_norm2'),
        ('attn.qkv', 'self_attn.qkv'),
        ('attn.proj', 'self_attn.projection'),
    )
    for i in range(3):
        q = tensors.pop(f'encoder.layers.{i}.attn.q_bias')
        v = tensors.pop(f'encoder.layers.{i}.attn.v_bias')
        tensors[f'encoder.layers.{i}.self_attn.qkv.bias'] = torch.cat(
            (q, torch.zeros_like(q), v)
        )
    result = theirs.load_state_dict(tensors, strict=False)
    assert (
        set(result.missing_keys)
        == {'post_layernorm.weight', 'post_layernorm.bias'}
        and not result.unexpected_keys
    )
    images = torch.randn(2, 3, 42, 42)
    # transformers puts ln_vision, with another eps, behind the last block
    before_norm = []
    theirs.post_layernorm.register_forward_pre_hook(
        lambda module, args: before_norm.append(args[0])
    )
    with torch.no_grad():
        theirs(pixel_values=images)
        mine = ours(images)
    assert mine.shape == (2, 10, 32) and mine.std() > 0.5
    torch.testing.assert_close(mine, before_norm[0], atol=1e-5, rtol=1e-5)


def qformer_pair(layers=4):
    ours = randomize(
        QFormer(
            in_channels=20,
            num_queries=5,
            width=32,
            depth=layers,
            num_heads=4,
            mlp_width=48,
        )
    )
    theirs = Blip2QFormerModel(
        Blip2QFormerConfig(
            hidden_size=32,
            num_hidden_layers=layers,
            num_attention_heads=4,
            intermediate_size=48,
            encoder_hidden_size=20,
            cross_attention_frequency=2,
            layer_norm_eps=1e-12,
        )
    ).eval()
    tensors = rename(
        ours.state_dict(),
        ('attention.query', 'attention.attention.query'),
        ('attention.key', 'attention.attention.key'),
        ('attention.value', 'attention.attention.value'),
        ('attention.out', 'attention.output.dense'),
        ('attention.norm', 'attention.output.LayerNorm'),
        ('cross_attention', 'crossattention'),
        ('mlp.fc1', 'intermediate_query.dense'),
        ('mlp.fc2', 'output_query.dense'),
        ('mlp.norm', 'output_query.LayerNorm'),
    )
    tensors = {
        name if name.startswith('layers') else f'layernorm{name[4:]}': tensor
        for name, tensor in tensors.items()
        if name.startswith(('layers', 'norm'))
    }
    tensors = {
        (
            f'encoder.layer{name[6:]}' if name.startswith('layers') else name
        ): tensor
        for name, tensor in tensors.items()
    }
    result = theirs.load_state_dict(tensors, strict=False)
    assert not result.unexpected_keys
    # the text path and position_ids are theirs alone
    assert all(
        'query' not in key and 'attention' not in key
        for key in result.missing_keys
    ), result.missing_keys
    return ours, theirs


def test_q_former():
    ours, theirs = qformer_pair()
    features = torch.randn(3, 7, 20) * 2 + 1
    with torch.no_grad():
        mine = ours(features)
        want = theirs(
            query_embeds=ours.query_tokens.expand(3, -1, -1),
            encoder_hidden_states=ours.ln_vision(features),
        ).last_hidden_state
    assert mine.shape == (3, 5, 32)
    assert (mine[0] - mine[1]).abs().max() > 0.1  # the image is looked at
    torch.testing.assert_close(mine, want, atol=1e-5, rtol=1e-5)


def test_ln_vision_has_the_eps_of_lavis():
    ours, _ = qformer_pair(2)
    features = torch.randn(1, 7, 20) * 0.01  # where 1e-5 and 1e-6 differ
    seen = []
    ours.layers[0].cross_attention.key.register_forward_pre_hook(
        lambda module, args: seen.append(args[0])
    )
    with torch.no_grad():
        ours(features)
    want = torch.nn.functional.layer_norm(
        features, (20,), ours.ln_vision.weight, ours.ln_vision.bias, 1e-5
    )
    torch.testing.assert_close(seen[0], want)
