# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The package lives with today's versions of its dependencies."""

import pickle
import subprocess
import sys

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


def test_a_torch_without_muon_is_named(monkeypatch):
    monkeypatch.delattr(torch.optim, 'Muon', raising=False)
    with pytest.raises(ImportError, match='install torch 2.9 or newer'):
        compat.muon([])


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


def imported(statement: str) -> set[str]:
    """The modules that a fresh Python has after a statement."""
    done = subprocess.run(
        [
            sys.executable,
            '-c',
            f'{statement}\nimport sys\nprint(*sys.modules)',
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def test_import_loads_no_unused_library():
    """Together they made ``import minigpt4`` take 2 seconds longer."""
    modules = imported('import minigpt4')
    assert 'minigpt4.models' in modules
    unused = {
        'bitsandbytes',
        'peft',
        'torch._dynamo',
        'torch._inductor',
        'torchvision',
        'transformers.modeling_utils',
        'transformers.trainer_utils',
    }
    # torch 2.6 itself imports its compiler
    unused -= imported('import torch.distributed.optim')
    assert modules & unused == set()


def test_optional_optimizers_are_registered_on_first_use():
    pytest.importorskip('bitsandbytes')
    modules = imported(
        'import minigpt4, sys\n'
        'from mmengine.registry import OPTIMIZERS\n'
        'assert OPTIMIZERS.get("AdamW").__module__ == "torch.optim.adamw"\n'
        'assert "bitsandbytes" not in sys.modules\n'
        'from mmpretrain.registry import OPTIMIZERS as child\n'
        'names = "AdamW8bit", "bnb_AdamW", "Adafactor"\n'
        'found = [child.get(name).__module__ for name in names]\n'
        'assert found == ["bitsandbytes.optim.adamw"] * 2 + ['
        '"transformers.optimization"], found'
    )
    assert 'bitsandbytes' in modules


def test_optimizers_registered_by_mmengine_stay():
    """Where mmengine was imported first, as in a program of a user."""
    pytest.importorskip('bitsandbytes')
    imported(
        'import mmengine.optim, minigpt4\n'
        'from mmengine.registry import OPTIMIZERS\n'
        'assert "AdamW8bit" in OPTIMIZERS.module_dict'
    )
