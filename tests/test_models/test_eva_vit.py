# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The backbone: sizes, official names, dtype and freezing."""

import math

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


@pytest.mark.parametrize('side', [42, 56, 14])
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_another_image_size_interpolates_the_positions(tmp_path, side, dtype):
    """The rule of MiniGPT-4 and LAVIS: bicubic, without the class token."""
    source = EVAViT(ARCH, img_size=28)
    path = official_checkpoint(source, tmp_path / 'eva_vit_g.pth')
    loaded = EVAViT(ARCH, img_size=side, checkpoint=path, dtype=dtype)
    patches = side // 14
    assert loaded.grid_size == (patches, patches)
    tokens = loaded(torch.zeros(1, 3, side, side))
    assert tokens.shape == (1, 1 + patches**2, 16)
    expected = bicubic(source.pos_embed[0, 1:].view(2, 2, 16), patches)
    expected = torch.cat((source.pos_embed[0, :1], expected.flatten(0, 1)))
    torch.testing.assert_close(
        loaded.pos_embed[0].float(),
        expected,
        atol=1e-6 if dtype == 'float32' else 3e-4,
        rtol=1e-5 if dtype == 'float32' else 1e-2,
    )
    # a file of this size is used as it is
    torch.save(loaded.state_dict(), tmp_path / 'own.pth')
    again = EVAViT(
        ARCH, img_size=side, checkpoint=str(tmp_path / 'own.pth'), dtype=dtype
    )
    assert torch.equal(again.pos_embed, loaded.pos_embed)


def bicubic(table, size):
    """Interpolate ``(n, n, C)`` to ``(size, size, C)`` by Keys' kernel.

    With a = -0.75, half-pixel centres and repeated borders, as
    ``torch.nn.functional.interpolate`` does on a GPU and a CPU.
    """
    old = len(table)

    def kernel(x):
        a, x = -0.75, abs(x)
        if x <= 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0

    weights = torch.zeros(size, old)
    for row in range(size):
        centre = (row + 0.5) * old / size - 0.5
        for tap in range(math.floor(centre) - 1, math.floor(centre) + 3):
            column = min(max(tap, 0), old - 1)
            weights[row, column] += kernel(centre - tap)
    return torch.einsum('ik,jl,klc->ijc', weights, weights, table)


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
    with pytest.raises(
        ValueError, match='img_size=30, .* no multiple of .*14'
    ):
        EVAViT(ARCH, img_size=30)
    with pytest.raises(ValueError, match=r'\(1, 3, 42, 42\) given.* 28, 28'):
        EVAViT(ARCH, img_size=28)(torch.zeros(1, 3, 42, 42))
