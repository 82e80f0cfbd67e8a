# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Both stages of the small model on a folder of generated images.

The configs are the shipped ones; the vision encoder and the LLM are random.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from minigpt4.models import EfficientNetLite
from minigpt4.weights.checkpoint_files import read_checkpoint
from minigpt4_cli.main import main

pytestmark = pytest.mark.slow
CONFIGS = Path(__file__).parents[1] / 'configs' / 'minigpt4'
# five captions with few common words, so that they make a description
CAPTIONS = (
    'A {colour} square fills all of this small image from edge to edge.',
    'Somebody painted paper with one bright {colour} brush and nothing else.',
    'No animals, people, trees or houses appear anywhere inside its frame.',
    'Flat {colour} paint covers an empty wall without any visible texture.',
    'Looking closely reveals neither shadows nor lines, only plain pigment.',
)
COLOURS = ('red', 'blue', 'green', 'black', 'white', 'orange')


@pytest.fixture
def photo_folder(tmp_path) -> Path:
    """Six images, each with a text file of five captions."""
    folder = tmp_path / 'photos'
    folder.mkdir()
    for colour in COLOURS:
        Image.new('RGB', (40, 30), colour).save(folder / f'{colour}.jpg')
        lines = '\n'.join(CAPTIONS).format(colour=colour)
        (folder / f'{colour}.txt').write_text(lines)
    return folder


def test_both_stages_train(
    photo_folder, tmp_path, run_tool, chat_llm_dir, monkeypatch
):
    text = run_tool(
        'photo_data.py', photo_folder, '--out', 'data', cwd=tmp_path
    )
    assert '4 photographs to train with, 20 captions, 2 held-out' in text
    data = tmp_path / 'data'
    held_out = (data / 'images_test.txt').read_text().splitlines()
    objects = json.loads((data / 'objects_test.json').read_text())
    assert sorted(objects) == sorted(held_out)
    assert all(Path(name).is_file() for name in objects)
    stored = json.loads((data / 'descriptions_train.json').read_text())
    assert len(stored['annotations']) == 4
    llm = tmp_path / 'llm'
    shutil.copytree(chat_llm_dir('smollm2'), llm)
    backbone = tmp_path / 'backbone.pth'
    torch.save(EfficientNetLite('lite2').state_dict(), backbone)
    options = (
        *('max_iters=2', 'global_batch_size=2'),
        *(f'model.decoder.name_or_path={llm}', 'model.decoder.arch=None'),
        f'model.backbone.checkpoint={backbone}',
        *('train_dataloader.num_workers=0', 'default_hooks.logger.interval=1'),
        'train_dataloader.persistent_workers=False',
        'train_dataloader.dataset.data_root=data',
        'default_hooks.checkpoint.interval=2',
    )
    captions = (
        'default_hooks.sample_captions.interval=2',
        'model.generation.max_new_tokens=4',
    )
    # as tools/quickstart.sh does it: from cached features
    monkeypatch.chdir(tmp_path)
    config = str(CONFIGS / 'stage1_small.py')
    cache = ('cache-features', config, '-o', 'features')
    assert main([*cache, '--cfg-options', *options]) == 0
    log = run_tool(
        *('train.py', config, '--features', 'features', '--cfg-options'),
        *(*options, *captions),
        cwd=tmp_path,
    )
    assert 'warm start done: 20 samples' in log
    assert 'captions at iteration 2' in log
    first = tmp_path / 'work_dirs/stage1_small/iter_2.pth'
    log = run_tool(
        *('train.py', CONFIGS / 'stage2_small.py', '--cfg-options'),
        *(*options, *captions, f'load_from={first}'),
        cwd=tmp_path,
    )
    assert 'warm start' not in log
    assert 'captions at iteration 2' in log
    last = tmp_path / 'work_dirs/stage2_small/iter_2.pth'
    before, after = (
        read_checkpoint(file, 'cpu')['state_dict'] for file in (first, last)
    )
    for name in ('head.prefix', 'head.layers.0.weight', 'head.layers.0.bias'):
        assert after[name].isfinite().all()
        assert not torch.equal(before[name], after[name])


def test_folder_without_descriptions_is_refused_for_stage_2(
    photo_folder, tmp_path, run_tool
):
    for file in photo_folder.glob('*.txt'):
        file.write_text('a palace')
    (photo_folder / 'red.txt').write_text('')
    arguments = ('photo_data.py', photo_folder, '--out', 'data')
    text = run_tool(*arguments, cwd=tmp_path)
    assert '0 photographs have a description for stage 2' in text
    assert 'skipped 1 text file without text (red.txt)' in text
    with pytest.raises(AssertionError, match='together give 50 to 120 words'):
        run_tool(*arguments, '--stage2', cwd=tmp_path)


def test_skipped_images_and_both_layouts_are_reported(
    photo_folder, tmp_path, run_tool
):
    (photo_folder / 'red.jpg').write_bytes(b'')
    (photo_folder / 'blue.txt').unlink()
    records = [dict(image='blue.jpg', caption='A blue wall with a dog.')]
    (photo_folder / 'captions_test.json').write_text(json.dumps(records))
    arguments = ('photo_data.py', photo_folder, '--out', 'data')
    text = run_tool(*arguments, cwd=tmp_path)
    assert f'skipped 1 image not readable ({photo_folder}/red.jpg: ' in text
    assert '1 photograph with captions from captions_test.json' in text
    assert '4 photographs with captions from text files' in text
    assert '1 photograph named as held-out, too few' in text
    assert '3 photographs to train with, 15 captions, 2 held-out' in text
    objects = json.loads((tmp_path / 'data/objects_test.json').read_text())
    assert objects[str(photo_folder / 'blue.jpg')] == ['dog']
    for file in photo_folder.glob('*.jpg'):
        file.write_bytes(b'')
    with pytest.raises(AssertionError, match='skipped 6 images .*'):
        run_tool(*arguments, cwd=tmp_path)
