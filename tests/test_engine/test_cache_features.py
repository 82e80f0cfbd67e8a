# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Training from cached features equals training from the images."""

import copy
import io
import json
import os
import signal

import numpy as np
import pytest
import torch
import transformers
from mmengine.config import ConfigDict
from PIL import Image
from rich.progress import Progress

from minigpt4.datasets.feature_cache import (
    FeatureCache,
    LoadFeatures,
    image_digest,
)
from minigpt4.engine import cache_features as features
from minigpt4.engine import config
from minigpt4.engine.cache_features import (
    cache_features,
    provenance_of,
    use_features,
)
from minigpt4.engine.config import build_runner
from minigpt4.models import EfficientNetLite
from minigpt4.registry import MODELS
from minigpt4.utils.signals import StopSignal
from minigpt4.weights.read import LazyTensor
from minigpt4.weights.write import write_safetensors
from minigpt4_cli import main as cli


def jpeg(seed) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3))
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, 'JPEG')
    return buffer.getvalue()


@pytest.fixture
def make(make_cfg, tmp_path, stream_data, pair_data, write_shard):
    """As ``make_cfg``, with different images and vision weights in files."""
    for number, path in enumerate(sorted(stream_data.rglob('*.tar'))):
        samples = [
            dict(jpg=jpeg([number, i]), txt=f'a red circle, {i}'.encode())
            for i in range(6)
        ]
        write_shard(path, samples)
    for number in range(5):
        (pair_data / f'image/{number}.jpg').write_bytes(jpeg(number))

    def make(kind, **options):
        cfg = make_cfg(kind, **options)
        torch.manual_seed(0)
        for part in ('backbone', 'neck'):
            module = MODELS.build(cfg.model[part])
            path = tmp_path / f'{part}.safetensors'
            if not path.exists():
                write_safetensors(
                    path,
                    {
                        name: LazyTensor.of(torch.randn_like(t) * 0.2)
                        for name, t in module.state_dict().items()
                    },
                )
            cfg.model[part]['checkpoint'] = str(path)
        return cfg

    return make


@pytest.mark.parametrize('kind', ['stream', 'sampler'])
@pytest.mark.parametrize('workers', [0, 2])
def test_losses_and_weights_are_equal(make, tmp_path, scalars, kind, workers):
    folder = tmp_path / 'cache'
    cfg = make(kind, **{'train_dataloader.num_workers': workers})
    counts = cache_features(cfg, folder, dtype='float32')
    assert counts == dict(
        added=30 if kind == 'stream' else 5, known=0, skipped=0
    )
    results = []
    for cached in (False, True):
        cfg = make(kind, max_iters=4)
        cfg.train_dataloader.num_workers = workers
        if cached:
            use_features(cfg, str(folder))
            assert 'LoadFeatures' in cfg.pretty_text  # as a run logs it
        runner = build_runner(cfg)
        runner.train()
        losses = [scalars(cfg)[i]['loss'] for i in range(1, 5)]
        results.append((losses, runner.model.head.layers[0].weight.data))
    model = runner.model
    assert model.backbone is None
    frozen = sum(p.numel() for p in model.neck.parameters())
    assert frozen == 0
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-5)


@pytest.fixture
def make_other(make, tmp_path):
    """A config of an EfficientNet-Lite or a CLIP, with pooled patches."""

    def make_other(kind):
        cfg = make('sampler', max_iters=2)
        cfg.model.neck = dict(
            type='minigpt4.PatchTokens', grid=1, keep_global=True
        )
        folder = tmp_path / kind
        if kind == 'clip' and not folder.exists():
            torch.manual_seed(0)
            transformers.CLIPVisionModel(
                transformers.CLIPVisionConfig(
                    hidden_size=16,
                    intermediate_size=24,
                    num_hidden_layers=2,
                    num_attention_heads=2,
                    image_size=28,
                    patch_size=14,
                )
            ).save_pretrained(folder)
            change_json(
                folder / 'preprocessor_config.json',
                image_mean=[0.5] * 3,
                image_std=[0.5] * 3,
            )
        path = tmp_path / 'lite0.pth'
        if kind == 'lite' and not path.exists():
            torch.manual_seed(0)
            backbone = EfficientNetLite('lite0', 28)
            torch.save(backbone.state_dict(), path)
        cfg.model.backbone = (
            dict(type='minigpt4.HFVisionBackbone', name_or_path=str(folder))
            if kind == 'clip'
            else dict(
                type='minigpt4.EfficientNetLite',
                arch='lite0',
                img_size=28,
                checkpoint=str(path),
            )
        )
        return cfg

    return make_other


def change_json(path, **settings):
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**content, **settings}))


@pytest.mark.parametrize('kind', ['lite', 'clip'])
def test_other_backbones_are_cached(make_other, tmp_path, scalars, kind):
    folder = tmp_path / 'cache'
    counts = cache_features(make_other(kind), folder, dtype='float32')
    assert counts['added'] == 5
    losses = []
    for cached in (False, True):
        cfg = make_other(kind)
        if cached:
            use_features(cfg, str(folder))
        runner = build_runner(cfg)
        runner.train()
        losses.append([scalars(cfg)[i]['loss'] for i in (1, 2)])
    torch.testing.assert_close(losses[0], losses[1], atol=1e-5, rtol=1e-5)
    # a checkpoint of the cached run is one of the whole model
    MODELS.build(make_other(kind).model).load_state_dict(
        runner.model.state_dict()
    )
    other = make_other(kind)
    other.model.neck.grid = None
    with pytest.raises(ValueError, match='another neck .PatchTokens, '):
        MODELS.build(other.model).load_state_dict(runner.model.state_dict())


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda c, f: c.model.neck.update(keep_global=False), 'neck .*true'),
        (
            lambda c, f: change_json(
                f / 'preprocessor_config.json', image_std=[0.25] * 3
            ),
            r'backbone normalisation .*0.5\]\] instead of .*0.25',
        ),
        (
            lambda c, f: change_json(f / 'config.json', num_attention_heads=4),
            'backbone config .*instead of',
        ),
        (lambda c, f: c.model.backbone.update(layer=-2), 'backbone .*layer'),
    ],
)
def test_a_cache_of_another_folder_is_refused(
    make_other, tmp_path, change, message
):
    cfg = make_other('clip')
    cache_features(cfg, tmp_path / 'cache')
    change(cfg, tmp_path / 'clip')
    with pytest.raises(ValueError, match=message):
        use_features(cfg, str(tmp_path / 'cache'))


def test_flips_are_cached_and_give_the_same_losses(make, tmp_path, scalars):
    def with_flips(**options):
        cfg = make('sampler', **options)
        for data in (cfg.train_dataloader.dataset,):
            data.pipeline.insert(0, dict(type='minigpt4.DrawFlip', seed=1))
        return cfg

    folder = tmp_path / 'cache'
    cfg = make('sampler')
    cache_features(cfg, folder, dtype='float32')  # an older cache, no flips
    counts = cache_features(with_flips(), folder, dtype='float32')
    assert counts == dict(added=5, known=5, skipped=0)
    losses = []
    for cached in (False, True):
        cfg = with_flips(max_iters=4)
        if cached:
            use_features(cfg, str(folder))
        build_runner(cfg).train()
        losses.append([scalars(cfg)[i]['loss'] for i in range(1, 5)])
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    cfg = make('sampler', max_iters=4)
    build_runner(cfg).train()
    assert [scalars(cfg)[i]['loss'] for i in range(1, 5)] != pytest.approx(
        losses[0], abs=1e-3
    )


def test_sample_captions_may_change_settings_of_the_training_data(
    make, tmp_path, written
):
    cfg = make('sampler', max_iters=1)
    cfg.default_hooks.sample_captions = dict(
        type='minigpt4.SampleCaptionsHook', interval=1, dataset=dict(limit=1)
    )
    assert cache_features(cfg, tmp_path / 'cache')['added'] == 5
    use_features(cfg, str(tmp_path / 'cache'))
    build_runner(cfg).train()
    assert 'captions at iteration 1' in written(cfg)


@pytest.mark.parametrize(
    ('kind', 'sampled', 'total'),
    [('sampler', False, 5), ('stream', False, None), ('stream', True, None)],
)
def test_progress_has_a_total_where_all_images_are_known(
    make, tmp_path, monkeypatch, kind, sampled, total
):
    add, totals = Progress.add_task, []

    def record(self, description, **settings):
        totals.append(settings['total'])
        return add(self, description, **settings)

    monkeypatch.setattr(Progress, 'add_task', record)
    cfg = make(kind)
    if sampled:
        cfg.default_hooks.sample_captions = dict(
            type='minigpt4.SampleCaptionsHook',
            dataset=make('sampler').train_dataloader.dataset,
        )
    cache_features(cfg, tmp_path / 'cache')
    assert totals[-1] == total


def test_uncached_sample_images_are_an_error_before_the_first_step(
    make, tmp_path
):
    cfg = make('sampler', max_iters=9)
    cfg.train_dataloader.dataset.limit = 2
    cache_features(cfg, tmp_path / 'cache')
    cfg.default_hooks.sample_captions = dict(
        type='minigpt4.SampleCaptionsHook', interval=9, dataset=dict(limit=4)
    )
    use_features(cfg, str(tmp_path / 'cache'))
    runner = build_runner(cfg)
    with pytest.raises(ValueError, match=r'is not in .* \(2 images\)'):
        runner.train()
    assert runner.iter == 0


def test_flips_that_are_not_cached_are_an_error(make, tmp_path):
    cfg = make('sampler')
    cache_features(cfg, tmp_path / 'cache')
    image = next(tmp_path.rglob('pairs/image/*.jpg'))
    load = LoadFeatures(str(tmp_path / 'cache'))
    record = dict(id=1, images=[str(image)])
    assert load(record)['images'][0].shape == (3, 24)
    with pytest.raises(ValueError, match='flipped, is not in .* flips'):
        load(dict(record, flipped=True))


def test_half_precision_is_close_to_single_precision(make, tmp_path):
    cfg = make('sampler')
    for dtype in ('float16', 'float32'):
        cache_features(cfg, tmp_path / dtype, dtype=dtype)
    half, full = (FeatureCache(tmp_path / d) for d in ('float16', 'float32'))
    names = [
        image_digest(p.read_bytes()) for p in tmp_path.rglob('pairs/**/*.jpg')
    ]
    assert len(names) == 5
    for name in names:
        a, b = half[name], full[name]
        assert a.dtype == torch.float16 and a.shape == (3, 24)
        assert torch.equal(a, b.half())


def test_killed_run_is_resumed(make, tmp_path):
    cfg = make('stream')
    folder = tmp_path / 'cache'
    cache_features(cfg, folder)
    whole = (folder / '0000.features').read_bytes()
    digests = (folder / '0000.digests').read_bytes()
    record = len(whole) // 30
    # killed within the seventh record, after its features were written
    (folder / '0000.features').write_bytes(whole[: 7 * record + 5])
    (folder / '0000.digests').write_bytes(digests[: 6 * 16 + 3])
    assert len(FeatureCache(folder)) == 6
    assert cache_features(cfg, folder) == dict(added=24, known=6, skipped=0)
    assert (folder / '0000.digests').read_bytes() == digests
    # in other batches the sums may be rounded differently
    got, want = (
        np.frombuffer(data, np.float16).astype(float)
        for data in ((folder / '0000.features').read_bytes(), whole)
    )
    np.testing.assert_allclose(got, want, rtol=2e-3, atol=2e-3)
    assert cache_features(cfg, folder) == dict(added=0, known=30, skipped=0)


def test_each_rank_writes_its_own_files(make, tmp_path, monkeypatch):
    cfg = make('stream')
    folder = tmp_path / 'cache'
    names = 'minigpt4.engine.cache_features.get_rank'
    monkeypatch.setattr(
        'minigpt4.engine.cache_features.get_world_size', lambda: 2
    )
    added = []
    for rank in (0, 1):
        monkeypatch.setattr(names, lambda rank=rank: rank)
        added.append(cache_features(cfg, folder)['added'])
    assert added == [18, 12]  # three shards and two
    assert len(FeatureCache(folder)) == 30


@pytest.mark.parametrize('first', [True, False])
def test_main_process_writes_the_metadata(make, tmp_path, monkeypatch, first):
    """Two processes that write cache.json would replace each other's file."""
    exists = []
    for name, function in (
        ('is_main_process', lambda: first),
        (
            'barrier',
            lambda: exists.append((tmp_path / 'c/cache.json').exists()),
        ),
    ):
        monkeypatch.setattr(f'minigpt4.engine.cache_features.{name}', function)
    cache_features(make('sampler'), tmp_path / 'c')
    assert exists == [first, True]


def test_unreadable_images_are_recorded_once(make, tmp_path, log, written):
    cfg = make('sampler', max_iters=2)
    bad = tmp_path / 'pairs/image/3.jpg'
    bad.write_bytes(bad.read_bytes()[:200])
    folder = tmp_path / 'cache'
    assert cache_features(cfg, folder)['skipped'] == 1
    assert any('3' in line and 'cannot be read' in line for line in log)
    assert cache_features(cfg, folder) == dict(added=0, known=5, skipped=0)
    use_features(cfg, str(folder))
    build_runner(cfg).train()
    assert 'could not be read when' in written(cfg)


def test_image_added_later_is_an_error(make, tmp_path):
    cfg = make('sampler')
    folder = tmp_path / 'cache'
    cache_features(cfg, folder)
    (tmp_path / 'pairs/image/2.jpg').write_bytes(
        (tmp_path / 'pairs/image/1.jpg').read_bytes() + b'later'
    )
    use_features(cfg, str(folder))
    with pytest.raises(ValueError, match='2.jpg is not in .* again'):
        build_runner(cfg).train()


def weights_changed(cfg):
    path = cfg.model.backbone.checkpoint
    tensors = MODELS.build(cfg.model.backbone).state_dict()
    tensors['blocks.1.attn.proj.bias'] += 1e-3
    write_safetensors(path, {n: LazyTensor.of(t) for n, t in tensors.items()})


@pytest.mark.parametrize(
    'change, message',
    [
        (weights_changed, 'backbone weights .* instead of .* again'),
        (lambda c: c.model.neck.update(depth=1), 'neck .* instead of'),
        (
            lambda c: c.train_dataloader.dataset.pipeline[0].update(
                exact=True
            ),
            'image .*false.* instead of .*true',
        ),
        (lambda c: c.model.neck.update(frozen=False), 'neck is trained'),
        (lambda c: c.model.backbone.update(checkpoint=None), 'no checkpoint'),
        (lambda c: c.model.neck.pop('checkpoint'), 'neck has no checkpoint'),
        (
            lambda c: c.model.update(
                data_preprocessor=dict(
                    type='minigpt4.ImageNormalizer', mean=[0.5] * 3
                )
            ),
            'normaliser null instead of .*mean',
        ),
    ],
)
def test_cache_of_another_config_is_refused(make, tmp_path, change, message):
    cfg = make('sampler')
    folder = tmp_path / 'cache'
    cache_features(cfg, folder)
    change(cfg)
    before = copy.deepcopy(cfg.model.to_dict())
    with pytest.raises(ValueError, match=message) as error:
        use_features(cfg, str(folder))
    assert '\n' not in str(error.value)
    assert cfg.model.to_dict() == before
    with pytest.raises(ValueError):
        cache_features(cfg, folder)


def test_path_and_type_of_the_weights_do_not_matter(make, tmp_path):
    cfg = make('sampler')
    provenance = provenance_of(cfg)
    other = tmp_path / 'elsewhere.safetensors'
    other.write_bytes(open(cfg.model.backbone.checkpoint, 'rb').read())
    cfg.model.backbone.checkpoint = str(other)
    cfg.model.backbone.dtype = 'auto'
    assert provenance_of(cfg) == provenance


def test_cache_of_another_type_is_refused(make, tmp_path):
    cfg = make('sampler')
    cache_features(cfg, tmp_path / 'c')
    with pytest.raises(ValueError, match='are float16, not float32; con'):
        cache_features(cfg, tmp_path / 'c', dtype='float32')


def test_folder_without_a_cache_is_refused(make, tmp_path):
    with pytest.raises(FileNotFoundError, match='not a feature cache; make'):
        use_features(make('sampler'), str(tmp_path))


def test_command_makes_a_cache(make, tmp_path, capsys, monkeypatch):
    cfg = make('sampler')
    monkeypatch.setattr(config, 'load_config', lambda *_, **__: cfg)
    assert cli.main(['cache-features', 'x.py', '-o', str(tmp_path / 'c')]) == 0
    said = capsys.readouterr().out
    assert '5 images added, 0 already cached, 0 could not be read' in said
    cfg.model.backbone = ConfigDict(cfg.model.backbone, checkpoint='none.pth')
    assert cli.main(['cache-features', 'x.py', '-o', str(tmp_path / 'd')]) == 1
    assert 'error: ' in capsys.readouterr().err


@pytest.mark.parametrize('workers', [0, 2])
def test_signal_stops_after_the_current_batch_is_written(
    make, tmp_path, monkeypatch, workers
):
    cfg = make('stream', **{'train_dataloader.num_workers': workers})
    count = 0
    advance = Progress.advance

    def interrupted(*args):
        nonlocal count
        count += 1
        if count == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        advance(*args)

    monkeypatch.setattr(Progress, 'advance', interrupted)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(StopSignal, match='SIGTERM'):
        cache_features(cfg, tmp_path / 'cache')
    assert signal.getsignal(signal.SIGTERM) is before
    assert len(FeatureCache(tmp_path / 'cache')) == 7
    counts = cache_features(cfg, tmp_path / 'cache')
    assert counts == dict(added=23, known=7, skipped=0)


@pytest.mark.parametrize(
    'text, message',
    [
        ('model = dict(', 'SyntaxError'),
        ('raise KeyError("a")', 'KeyError'),
        ('# \xff', 'UnicodeDecodeError'),
        ('x = 1', 'no model and no train_dataloader'),
    ],
)
def test_command_refuses_an_invalid_config(tmp_path, capsys, text, message):
    path = tmp_path / 'mine.py'
    path.write_text(text, 'latin-1')
    assert (
        cli.main(['cache-features', str(path), '-o', str(tmp_path / 'c')]) == 1
    )
    err = capsys.readouterr().err
    assert err.count('\n') == 1
    assert 'mine.py' in err and message in err


def test_stopped_command_reports_what_is_kept(
    make, tmp_path, capsys, monkeypatch
):
    def stopped(*_, **__):
        os.kill(os.getpid(), signal.SIGTERM)

    cfg = make('sampler')
    monkeypatch.setattr(config, 'load_config', lambda *_, **__: cfg)
    monkeypatch.setattr(features, 'cache_features', stopped)
    assert (
        cli.main(['cache-features', 'x.py', '-o', str(tmp_path / 'c')]) == 143
    )
    assert capsys.readouterr().err == (
        '\nstopped by SIGTERM; what was cached is kept, and the same command '
        'continues from there.\n'
    )
