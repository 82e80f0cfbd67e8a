# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Tiny runs: the nano configs with a random model and a few images."""

import itertools
import json
import random
from pathlib import Path

import pytest
from mmengine.config import Config
from PIL import Image

CONFIGS = Path(__file__).parents[2] / 'configs/minigpt4'
COLOURS = ('red', 'blue', 'green')
_numbers = itertools.count()


@pytest.fixture
def stream_data(tmp_path, write_shard):
    """Folder of two sources of captioned images, ``a`` and ``b``."""
    draw = random.Random(0)
    for source, number in (('a', 3), ('b', 2)):
        for i in range(number):
            captions = [
                f'a {draw.choice(COLOURS)} circle, {j} {i}' for j in range(6)
            ]
            write_shard(tmp_path / f'stream/{source}/{i:05d}.tar', captions)
    return tmp_path / 'stream'


@pytest.fixture
def pair_data(tmp_path):
    """Folder of five described images in the official format."""
    folder = tmp_path / 'pairs'
    (folder / 'image').mkdir(parents=True)
    records = []
    for i in range(5):
        colour = COLOURS[i % 3]
        Image.new('RGB', (32, 32), colour).save(folder / f'image/{i}.jpg')
        caption = f'the {colour} square of detail {i}.'
        records.append(dict(image_id=str(i), caption=caption))
    (folder / 'filter_cap.json').write_text(json.dumps(records))
    return folder


@pytest.fixture
def make_cfg(tmp_path, tiny_cfg, stream_data, pair_data):
    """Function of a kind of data and settings to a config of a tiny run.

    ``'stream'`` is stage 1 of the nano model, ``'sampler'`` its stage 2;
    ``file`` is another config of the same stage.
    """

    def make(kind, file=None, **options) -> Config:
        stage = 'stage1' if kind == 'stream' else 'stage2'
        cfg = Config.fromfile(file or CONFIGS / f'{stage}_nano.py')
        data = cfg.train_dataloader.dataset
        cfg.default_hooks.pop('sample_captions', None)
        if kind == 'stream':
            for source in data.sources:
                source.shards = f'{stream_data}/{source.name}/*.tar'
        else:
            data.data_root = str(pair_data)
        data.pipeline[0].size = 28
        for key in ('prompt_template', 'max_text_length'):
            tiny_cfg[key] = cfg.model[key]
        cfg.model = dict(tiny_cfg, generation=dict(max_new_tokens=4))
        cfg.merge_from_dict(
            {
                'max_iters': 10,
                'global_batch_size': 4,
                'train_dataloader.num_workers': 0,
                'train_dataloader.persistent_workers': False,
                'default_hooks.logger.interval': 1,
                'default_hooks.checkpoint.interval': 2,
                'log_processor.window_size': 1,
                'param_scheduler.0.warmup': 2,
                **options,
            }
        )
        number = next(_numbers)
        cfg.work_dir = str(tmp_path / f'run{number}')
        # runners of one second would share their logs
        cfg.experiment_name = f'{tmp_path.name}-{number}'
        return cfg

    return make


@pytest.fixture
def scalars():
    """Function of the config of a run to its log: ``{step: scalars}``."""

    def read(cfg) -> dict:
        logged = {}
        for path in sorted(Path(cfg.work_dir).glob('*/vis_data/scalars.json')):
            for line in path.read_text().splitlines():
                entry = json.loads(line)
                logged.setdefault(entry['step'], {}).update(entry)
        return logged

    return read


@pytest.fixture
def losses(scalars):
    """Function of the config of a run to its losses."""

    def read(cfg) -> list:
        logged = scalars(cfg)
        assert list(logged) == list(range(1, len(logged) + 1))
        return [entry['loss'] for entry in logged.values()]

    return read


@pytest.fixture
def written():
    """Function of the config of a run to the text of its logs."""

    def read(cfg) -> str:
        logs = sorted(Path(cfg.work_dir).glob('*/*.log'))
        return '\n'.join(log.read_text() for log in logs)

    return read


@pytest.fixture(autouse=True)
def unformatted(monkeypatch):
    """Dump configs without yapf, which takes a second for each run."""
    monkeypatch.setattr(
        'mmengine.config.config.FormatCode', lambda text, **_: (text, True)
    )
