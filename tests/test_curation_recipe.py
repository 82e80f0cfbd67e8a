# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""From a folder of images to a stage 2 on its export, on the nano model."""

import csv
import json
import random
from pathlib import Path

import pytest
from benchmarks.description_failures import main as compare

from minigpt4.nano.world import render, sample_scene
from minigpt4_cli.main import main
from tests.chat_endpoint import chat_endpoint, draft_of

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
NANO = ROOT / 'projects/minigpt4/nano/weights/minigpt4_nano.pth'


def settings(url):
    return f"""
describe:
  device: cpu
  generation: {{max_new_tokens: 60}}
repair:
  backend: openai
  base_url: {url}
  model: fixer
  api_key_env: null
  guard: {{language: ignore}}
rules: {{min_words: 5, skip: [language, near_duplicate_image]}}
"""


def test_from_images_to_a_better_stage_2(
    tmp_path, run_tool, monkeypatch, capsys
):
    for package in ('datasketch', 'ftfy', 'openai'):
        pytest.importorskip(package)
    monkeypatch.setenv('NO_PROXY', '127.0.0.1')
    monkeypatch.chdir(tmp_path)
    rng = random.Random(3)
    (tmp_path / 'photos').mkdir()
    for i in range(8):
        image = render(sample_scene(rng), rng)
        image.save(tmp_path / f'photos/{i}.png')

    def run(*words):
        assert main([str(word) for word in words]) == 0
        return capsys.readouterr()

    run('data', 'check', 'photos')
    run('curate', 'add', 'photos', '--source', 'a camera', '--licence', 'CC0')
    with chat_endpoint(lambda m: draft_of(m).strip() + ' ') as endpoint:
        (tmp_path / 'curation.yml').write_text(settings(endpoint.url))
        run('curate', 'run', '--config', 'curation.yml')
        assert len(endpoint.messages) == 8
    run('curate', 'export-review', 'review.csv', '--reviewer', 'Ann')
    with open('review.csv', encoding='utf-8-sig', newline='') as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 4
    for row in rows:
        row['decision'] = 'accept'
    rows[0].update(decision='edit', new_text='There is one shape here now.')
    rows[1]['decision'] = 'reject'
    with open('review.csv', 'w', newline='') as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    run('curate', 'import-review', 'review.csv')
    out = run('curate', 'report', '-o', 'report.html').out
    assert f'reviews of Ann {len(rows)} ' in ' '.join(out.split())
    assert Path('report.html').is_file()
    run('curate', 'export', '-o', 'data/curated')
    stored = json.loads(Path('data/curated/filter_cap.json').read_text())
    texts = [record['caption'] for record in stored['annotations']]
    assert len(texts) == len(rows) - 1
    assert 'There is one shape here now.' in texts
    run('data', 'check', 'data/curated')
    run_tool(
        *('train.py', ROOT / 'configs/minigpt4/stage2_nano.py'),
        *('--cfg-options', 'max_iters=2', 'global_batch_size=2'),
        'train_dataloader.dataset.data_root=data/curated',
        f'load_from={NANO}',
        'train_dataloader.num_workers=0',
        'train_dataloader.persistent_workers=False',
        'default_hooks.checkpoint.interval=2',
        cwd=tmp_path,
    )
    checkpoint = 'work_dirs/stage2_nano/iter_2.pth'
    for name, words in (
        ('before', ()),
        ('after', ('--pretrained', checkpoint)),
    ):
        run('caption', 'photos', '-o', f'{name}/captions.jsonl', *words)
    files = [f'{name}/captions.jsonl' for name in ('before', 'after')]
    assert compare([*files, '--json', 'rates.json']) == 0
    rates = json.loads(Path('rates.json').read_text())
    assert {name: rates[name]['texts'] for name in files} == {
        name: 8 for name in files
    }
