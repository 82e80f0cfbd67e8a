# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The backbone: sizes, official names, dtype and freezing."""

import pytest
import torch

from minigpt4.models import EVAViT

ARCH = dict(width=16, depth=2, num_heads=2, mlp_width=24)


def official_checkpoint(vit, path):
    """As ``eva_vit_g.pth``: a block more than BLIP-2 keeps, norm, head."""
    tensors = dict(vit.state_dict())
    extra = {
        name.replace('blocks.1.', 'blocks.2.'): tensor + 1
        for name, tensor in tensors.items()
        if name.startswith('blocks.1.')
    }
    width = vit.out_channels
    tensors.update(
        extra,
        **{
            'norm.weight': torch.ones(width),
            'norm.bias': torch.ones(width),
            'head.weight': torch.ones(10, width),
            'head.bias': torch.ones(10),
        },
    )
    torch.save(tensors, path)
    return str(path)


def test_full_size_on_meta():
    with torch.device('meta'):
        vit = EVAViT()
        assert vit(torch.empty(1, 3, 224, 224)).shape == (1, 257, 1408)
    assert sum(p.numel() for p in vit.parameters()) == 985_894_528


def test_official_checkpoint_loads(tmp_path):
    torch.manual_seed(0)
    source = EVAViT(ARCH, img_size=28)
    path = official_checkpoint(source, tmp_path / 'eva_vit_g.pth')
    loaded = EVAViT(ARCH, img_size=28, checkpoint=path)
    images = torch.randn(2, 3, 28, 28)
    assert torch.equal(loaded(images), source(images))
    assert not torch.equal(EVAViT(ARCH, img_size=28)(images), source(images))


def test_checkpoint_of_another_depth_is_refused(tmp_path):
    path = official_checkpoint(
        EVAViT(ARCH, img_size=28), tmp_path / 'eva_vit_g.pth'
    )
    with pytest.raises(ValueError, match=r'lacks \d+ of .* blocks\.3\.'):
        EVAViT({**ARCH, 'depth': 4}, img_size=28, checkpoint=path)
    with pytest.raises(ValueError, match=r'misshaped 1 .*pos_embed \(\(1, 5'):
        EVAViT(ARCH, img_size=42, checkpoint=path)


def test_frozen_stays_in_eval_and_has_no_gradients():
    vit = EVAViT(ARCH, img_size=28)
    assert not vit.training
    assert vit.train() is vit
    assert not any(m.training for m in vit.modules())
    assert not any(p.requires_grad for p in vit.parameters())


def test_unfrozen_is_trained_in_fp32():
    vit = EVAViT(ARCH, img_size=28, frozen=False, dtype='bfloat16')
    assert vit.training and all(p.requires_grad for p in vit.parameters())
    vit(torch.randn(1, 3, 28, 28)).sum().backward()
    assert vit.cls_token.grad.dtype == torch.float32
    assert not vit.eval().training


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_features_in_low_precision_are_close_to_fp32(dtype):
    torch.manual_seed(0)
    low = EVAViT(ARCH, img_size=28, dtype=dtype)
    full = EVAViT(ARCH, img_size=28, dtype='float32')
    full.load_state_dict(low.state_dict())
    images = torch.randn(2, 3, 28, 28)
    assert low(images).dtype == getattr(torch, dtype)
    torch.testing.assert_close(
        low(images).float(), full(images), atol=0.05, rtol=0.05
    )


def test_invalid_arguments_are_refused():
    with pytest.raises(ValueError, match="arch 'eva-b'; expected .*eva-g"):
        EVAViT('eva-b')
    with pytest.raises(ValueError, match=r'\(1, 3, 42, 42\) given.* 28, 28'):
        EVAViT(ARCH, img_size=28)(torch.zeros(1, 3, 42, 42))
