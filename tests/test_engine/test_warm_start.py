# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The projection of a new run starts from a ridge regression."""

import json
import math
from collections import Counter

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import DATASETS

from minigpt4.engine import WarmStartHook
from minigpt4.engine.config import build_runner, latest_checkpoint

RIDGE, GAIN = 0.2, 3.0
OPTIONS = {
    'default_hooks.warm_start': dict(
        type='minigpt4.WarmStartHook', num_samples=5, ridge=RIDGE, gain=GAIN
    ),
    'model.head.num_prefix_tokens': 2,
    'model.head.position_bias': True,
    'default_hooks.checkpoint.interval': 1,
}


class KeepStart(Hook):
    """Keeps the projection with which the first iteration begins."""

    def __init__(self):
        self.state = {}

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if not self.state:
            self.state = head_state(runner.model)


def head_state(model):
    return {k: v.detach().clone() for k, v in model.head.state_dict().items()}


def start(cfg):
    """The projection at the first iteration of a run."""
    runner = build_runner(cfg)
    keep = KeepStart()
    runner.register_hook(keep, 'LOWEST')
    runner.train()
    return runner, keep.state


def ridge_regression(x, y):
    """Weight and bias that map x to y, by an augmented least-squares fit."""
    x_mean, y_mean = x.mean(0), y.mean(0)
    centred = x - x_mean
    penalty = RIDGE * centred.var(0, unbiased=False).mean() * len(x)
    identity = torch.eye(x.shape[1], dtype=x.dtype)
    rows = torch.cat((centred, penalty.sqrt() * identity))
    zeros = torch.zeros(x.shape[1], y.shape[1], dtype=y.dtype)
    targets = torch.cat((y - y_mean, zeros))
    weight = GAIN * torch.linalg.lstsq(rows, targets).solution.T
    return weight, y_mean - weight @ x_mean


def test_projection_is_the_ridge_solution(make_cfg):
    cfg = make_cfg('sampler', max_iters=1, **OPTIONS)
    runner, state = start(cfg)
    model = runner.model
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    samples = [dataset[i] for i in range(len(dataset))]
    assert len(samples) == 5
    collator = model.collator(training=True)
    captions = []
    for sample in samples:
        prompt = collator.tokenize(sample)
        pairs = zip(prompt.ids, prompt.supervised, strict=True)
        captions.append({i for i, supervised in pairs if supervised})
    counts = Counter(i for ids in captions for i in ids)
    table = model.decoder.llm.get_input_embeddings().weight.detach().double()
    targets = []
    for ids in captions:
        weights = {i: math.log(len(captions) / counts[i]) for i in ids}
        total = sum(weights.values())
        targets.append(sum(w / total * table[i] for i, w in weights.items()))
    images = torch.stack([sample.images[0] for sample in samples])
    with torch.no_grad():
        pixels = model.data_preprocessor.normalize(images)
        queries = model.encode_images(pixels).mean(1).double()
    targets = torch.stack(targets)
    weight, bias = ridge_regression(queries, targets)
    for name, expected in (
        ('layers.0.weight', weight),
        ('layers.0.bias', bias),
    ):
        torch.testing.assert_close(
            state[name], expected.float(), atol=1e-4, rtol=1e-3
        )
    assert not state['position_bias'].any()
    torch.testing.assert_close(
        state['prefix'], targets.mean(0).float().expand(2, -1)
    )


@pytest.mark.parametrize('kind', ['sampler', 'stream'])
def test_run_starts_from_it_for_each_kind_of_data(kind, make_cfg, written):
    cfg = make_cfg(kind, max_iters=1, **OPTIONS)
    _, state = start(cfg)
    _, repeated = start(make_cfg(kind, max_iters=1, **OPTIONS))
    random_options = {
        key: value
        for key, value in OPTIONS.items()
        if not key.endswith('warm_start')
    }
    _, at_random = start(make_cfg(kind, max_iters=1, **random_options))
    assert 'warm start done: 5 samples' in written(cfg)
    for name, value in state.items():
        assert value.isfinite().all()
        assert torch.equal(value, repeated[name])
        if name != 'position_bias':  # zeros in both
            assert not torch.allclose(value, at_random[name])


def test_resumed_run_is_unchanged(make_cfg):
    cfg = make_cfg('sampler', max_iters=1, **OPTIONS)
    runner, _ = start(cfg)
    saved = head_state(runner.model)
    cfg.max_iters = 2
    cfg.load_from, cfg.resume = latest_checkpoint(cfg.work_dir), True
    cfg.experiment_name += '-resumed'
    runner, state = start(cfg)
    assert runner.iter == 2
    for name, value in state.items():
        assert torch.equal(value, saved[name])


def test_loaded_run_is_unchanged(make_cfg):
    runner, _ = start(make_cfg('sampler', max_iters=1, **OPTIONS))
    saved = head_state(runner.model)
    cfg = make_cfg(
        'sampler',
        max_iters=1,
        load_from=latest_checkpoint(runner.work_dir),
        **OPTIONS,
    )
    _, state = start(cfg)
    for name, value in state.items():
        assert torch.equal(value, saved[name])


def test_two_ranks_start_like_one(make_cfg, tmp_path, run_tool):
    alone = make_cfg('sampler', max_iters=1, **OPTIONS)
    build_runner(alone).train()
    two = make_cfg('sampler', max_iters=1, **OPTIONS)
    two.dump(tmp_path / 'cfg.py')
    text = run_tool('train.py', tmp_path / 'cfg.py', cwd=tmp_path, ranks=2)
    assert 'warm start done: 5 samples' in text
    states = [
        torch.load(latest_checkpoint(cfg.work_dir), weights_only=True)
        for cfg in (alone, two)
    ]
    one, other = (state['state_dict'] for state in states)
    for name in ('head.layers.0.weight', 'head.layers.0.bias', 'head.prefix'):
        torch.testing.assert_close(
            one[name], other[name], atol=1e-4, rtol=1e-3
        )


def test_head_of_two_layers_is_refused(make_cfg):
    cfg = make_cfg('sampler', **OPTIONS, **{'model.head.num_layers': 2})
    with pytest.raises(ValueError, match='one linear layer') as error:
        build_runner(cfg).train()
    assert '2 layers' in str(error.value)
    assert '\n' not in str(error.value)


def test_data_without_readable_images_are_refused(make_cfg, pair_data):
    cfg = make_cfg('sampler', **OPTIONS)
    for record in json.loads((pair_data / 'filter_cap.json').read_text()):
        path = pair_data / 'image' / f'{record["image_id"]}.jpg'
        path.write_bytes(b'no image')
    runner = build_runner(cfg)
    (hook,) = (h for h in runner.hooks if isinstance(h, WarmStartHook))
    with pytest.raises(ValueError, match='none of the first 5 training'):
        hook.before_train(runner)
