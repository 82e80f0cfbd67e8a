# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""MMPretrain's model hub has our models and loads their weights."""

import json

import pytest
import torch
from mmengine.runner import CheckpointLoader
from mmpretrain import list_models

import minigpt4
from minigpt4.weights import model_hub as hub


def test_published_weights_are_loaded_from_the_cache(cache):
    """MMPretrain's get_model loads them through mmengine."""
    (url,) = (
        model.weights
        for model in hub.our_models().values()
        if (model.weights or '').startswith('http')
    )
    list_models('minigpt-4*')
    name = url.rpartition('/')[2]
    cache.mkdir()
    torch.save(dict(llama_proj=torch.ones(2)), cache / name)
    stat = (cache / name).stat()
    record = dict(url=url, sha256='714b5f52', size=stat.st_size)
    record['mtime_ns'] = stat.st_mtime_ns
    (cache / f'{name}.json').write_text(json.dumps(record))
    loaded = CheckpointLoader.load_checkpoint(url, 'cpu')
    assert loaded['llama_proj'].sum() == 2


@pytest.mark.parametrize('size', ['vicuna-13b', 'llama2-7b'])
def test_model_without_a_hosted_projection_needs_its_file(size):
    name = f'minigpt-4_{size}_caption'
    assert name in list_models('minigpt*')
    with pytest.raises(ValueError, match='give the file of one as pretrained'):
        minigpt4.get_model(name)
    with pytest.raises(FileNotFoundError, match='does not exist'):
        minigpt4.get_model(
            name,
            pretrained='projection.pth',
            backbone=dict(checkpoint=None, arch='nano'),
            neck=dict(checkpoint=None, in_channels=128)
            if size == 'vicuna-13b'
            else dict(merge=4),
            decoder=dict(name_or_path='/nowhere/llm'),
        )
