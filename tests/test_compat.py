# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The package lives with today's versions of its dependencies."""

import pickle

import numpy
import pytest
import torch
import transformers
from mmengine.logging import HistoryBuffer
from mmengine.registry import MODELS

import minigpt4
from minigpt4 import compat, registry


def test_mmpretrain_models_import():
    import mmpretrain.models

    assert mmpretrain.models.build_backbone is not None
    from mmpretrain.registry import MODELS as theirs

    assert 'VisionTransformer' in theirs
    assert minigpt4.__version__


def test_checkpoint_with_history_buffer_is_read(tmp_path):
    buffer = HistoryBuffer([1.0, 2.5], [1, 1])
    buffer.update(4.5)
    torch.save(dict(message_hub=dict(loss=buffer)), tmp_path / 'a.pth')
    read = torch.load(tmp_path / 'a.pth', weights_only=True)
    loss = read['message_hub']['loss']
    assert loss.data[0].tolist() == [1.0, 2.5, 4.5]
    assert loss.mean() == pytest.approx(8 / 3)
    assert loss.statistics('max') == 4.5


class Attribute:
    """Pickles as an attribute of another allowed class."""

    def __reduce__(self):
        return getattr, (numpy.ndarray, 'tofile')


class Owned:
    """Pickles as an attribute of an instance."""

    def __reduce__(self):
        return getattr, (HistoryBuffer.__new__(HistoryBuffer), '__class__')


@pytest.mark.parametrize('evil', [Attribute(), Owned()])
def test_getattr_is_not_allowed_to_pickles(tmp_path, evil):
    torch.save(dict(x=evil), tmp_path / 'a.pth')
    with pytest.raises((pickle.UnpicklingError, ValueError)):
        torch.load(tmp_path / 'a.pth', weights_only=True)


def test_dtype_argument_is_understood(tiny_llm_dir):
    llm = transformers.AutoModelForCausalLM.from_pretrained(
        tiny_llm_dir, **compat.dtype_argument(torch.bfloat16)
    )
    assert llm.lm_head.weight.dtype == torch.bfloat16


def test_components_build_through_the_root_registry():
    arch = dict(width=16, depth=1, num_heads=2, mlp_width=16)
    built = MODELS.build(dict(type='minigpt4.EVAViT', arch=arch, img_size=28))
    assert isinstance(built, minigpt4.models.EVAViT)
    assert built.out_channels == 16


def test_all_components_are_in_the_child_registry():
    for name in minigpt4.models.__all__:
        assert registry.MODELS.get(name) is getattr(minigpt4.models, name)
        assert MODELS.get(f'minigpt4.{name}') is registry.MODELS.get(name)
