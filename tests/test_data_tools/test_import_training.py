# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The configs of the nano model train on imported data without edits."""

import json
from pathlib import Path

import pytest
from PIL import Image

from minigpt4_cli.main import main

CONFIGS = Path(__file__).parents[2] / 'configs/minigpt4'
OPTIONS = (
    *('max_iters=1', 'train_dataloader.num_workers=0'),
    *('train_dataloader.persistent_workers=False', 'global_batch_size=4'),
    *(
        'default_hooks.logger.interval=1',
        'default_hooks.checkpoint.interval=1',
    ),
)


@pytest.fixture
def photos(tmp_path):
    """A folder of images with captions in text files."""
    folder = tmp_path / 'photos'
    folder.mkdir()
    for i in range(12):
        Image.new('RGB', (64, 48), (20 * i, 99, 0)).save(folder / f'{i}.JPG')
        (folder / f'{i}.txt').write_text(f'the shape {i}\na shape\n')
    return folder


def test_both_stages_train(tmp_path, photos, run_tool):
    data = tmp_path / 'data/nano'
    for name in 'ab':
        out = str(data / 'stage1' / name)
        arguments = [str(photos), '-o', out, '--to', 'stage1', '-q']
        assert main(['data', 'import', *arguments]) == 0
    for name, file in (('stage2', 'filter_cap'), ('test', 'descriptions')):
        out = str(data / name)
        arguments = [str(photos), '-o', out, '--name', file, '-q']
        assert main(['data', 'import', *arguments]) == 0
    assert len(json.loads((data / 'stage2/filter_cap.json').read_text())) == 24
    log = run_tool(
        *('train.py', CONFIGS / 'stage1_nano.py', '--cfg-options', *OPTIONS),
        cwd=tmp_path,
    )
    assert 'sample: ' not in log  # no kind of skipped sample
    first = tmp_path / 'work_dirs/stage1_nano/iter_1.pth'
    run_tool(
        *('train.py', CONFIGS / 'stage2_nano.py', '--cfg-options', *OPTIONS),
        f'load_from={first}',
        cwd=tmp_path,
    )
    assert (tmp_path / 'work_dirs/stage2_nano/iter_1.pth').is_file()
