# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The import restores the files that a FastVLM folder was made from."""

import json

import pytest
import torch
import transformers

from minigpt4.convert.folder_extras import LLM_FOLDER
from minigpt4.convert.huggingface_export import export_huggingface
from minigpt4.convert.huggingface_import import import_huggingface
from minigpt4.weights.read import LazyTensor, open_tensors
from minigpt4.weights.write import write_safetensors

if not hasattr(transformers, 'FastVlmForConditionalGeneration'):
    pytest.skip('this transformers has no FastVLM', allow_module_level=True)


@pytest.mark.parametrize(('grid', 'layers'), [(None, 1), (2, 1), (1, 2)])
def test_every_bit_is_restored(
    small_cfg, lite_file, tiny_llm_dir, save_head, tmp_path, grid, layers
):
    small_cfg.model.neck.grid = grid
    small_cfg.model.head.num_layers = layers
    head = save_head(tmp_path / 'head.pth', 32, layers)
    export_huggingface(small_cfg, tmp_path / 'head.pth', tmp_path / 'hf')
    report = import_huggingface(tmp_path / 'hf', tmp_path / 'back')
    assert not report.missing
    assert set(report.left_over.values()) == {
        'a constant of the exported class'
    }
    found = open_tensors(tmp_path / 'back' / 'minigpt4.pth')
    assert 'llm_fingerprint' in found
    for name, tensor in head.items():
        assert torch.equal(found[name].read(), tensor), name
    for file, source in (
        ('efficientnet_lite.safetensors', lite_file),
        (LLM_FOLDER, tiny_llm_dir),
    ):
        back = open_tensors(tmp_path / 'back' / file)
        for name, tensor in open_tensors(source).items():
            if not name.endswith('num_batches_tracked'):
                assert torch.equal(back[name].read(), tensor.read()), name
    for file in tiny_llm_dir.glob('*token*'):
        copy = tmp_path / 'back' / LLM_FOLDER / file.name
        assert copy.read_bytes() == file.read_bytes()


def test_fast_vlm_of_another_project_is_refused(tmp_path):
    (tmp_path / 'fast').mkdir()
    config = dict(
        model_type='fast_vlm', vision_config=dict(model_type='timm_wrapper')
    )
    (tmp_path / 'fast' / 'config.json').write_text(json.dumps(config))
    with pytest.raises(ValueError, match='is no EfficientNet-Lite that'):
        import_huggingface(tmp_path / 'fast', tmp_path / 'back')
    assert not (tmp_path / 'back').exists()


@pytest.mark.parametrize(
    ('name', 'replacement', 'ours'),
    [
        # of another width than the export wrote: it is not cut
        ('embeddings.batchnorm.weight', torch.ones(72), 'stem.norm.weight'),
        # the last norm of the folder has the shape of ours, but is constant
        ('encoder.blocks.16.expansion.expand_bn.weight', None, 'head.norm.w'),
    ],
)
def test_damaged_backbone_is_refused(
    small_cfg, save_head, tmp_path, name, replacement, ours
):
    save_head(tmp_path / 'head.pth', 32)
    export_huggingface(small_cfg, tmp_path / 'head.pth', tmp_path / 'hf')
    (file,) = (tmp_path / 'hf').glob('model*.safetensors')
    tensors = {key: t.read().clone() for key, t in open_tensors(file).items()}
    del tensors[f'model.vision_tower.{name}']
    if replacement is not None:
        tensors[f'model.vision_tower.{name}'] = replacement
    write_safetensors(
        file, {key: LazyTensor.of(t) for key, t in tensors.items()}
    )
    with pytest.raises(ValueError, match=ours):
        import_huggingface(tmp_path / 'hf', tmp_path / 'back')
    assert not (tmp_path / 'back').exists()
