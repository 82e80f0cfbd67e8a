# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Training from a cache is training from the images."""

import copy
import io
import os
import resource
import signal

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from PIL import Image

from minigpt4.datasets import SampleError, feature_cache
from minigpt4.datasets.feature_cache import (
    FeatureCache,
    FeatureWriter,
    digest_of,
)
from minigpt4.engine import config, features
from minigpt4.engine.config import build_runner
from minigpt4.engine.features import cache_features, maker_of, use_features
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
    """As ``make_cfg``, each picture another, vision weights in files."""
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
def test_same_losses_and_weights(make, tmp_path, scalars, kind, workers):
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


def test_half_precision_is_close(make, tmp_path):
    cfg = make('sampler')
    for dtype in ('float16', 'float32'):
        cache_features(cfg, tmp_path / dtype, dtype=dtype)
    half, full = (FeatureCache(tmp_path / d) for d in ('float16', 'float32'))
    names = [
        digest_of(p.read_bytes()) for p in tmp_path.rglob('pairs/**/*.jpg')
    ]
    assert len(names) == 5
    for name in names:
        a, b = half[name], full[name]
        assert a.dtype == torch.float16 and a.shape == (3, 24)
        assert torch.equal(a, b.half())


def test_goes_on_where_it_was_killed(make, tmp_path):
    cfg = make('stream')
    folder = tmp_path / 'cache'
    cache_features(cfg, folder)
    whole = (folder / '0000.features').read_bytes()
    digests = (folder / '0000.digests').read_bytes()
    record = len(whole) // 30
    # killed within the seventh record: its features whole, its digest not
    (folder / '0000.features').write_bytes(whole[: 7 * record + 5])
    (folder / '0000.digests').write_bytes(digests[: 6 * 16 + 3])
    assert len(FeatureCache(folder)) == 6
    assert cache_features(cfg, folder) == dict(added=24, known=6, skipped=0)
    assert (folder / '0000.digests').read_bytes() == digests
    # in other batches the sums may round otherwise
    got, want = (
        np.frombuffer(data, np.float16).astype(float)
        for data in ((folder / '0000.features').read_bytes(), whole)
    )
    np.testing.assert_allclose(got, want, rtol=2e-3, atol=2e-3)
    assert cache_features(cfg, folder) == dict(added=0, known=30, skipped=0)


def test_ranks_write_files_of_their_own(make, tmp_path, monkeypatch):
    cfg = make('stream')
    folder = tmp_path / 'cache'
    names = 'minigpt4.engine.features.get_rank'
    monkeypatch.setattr('minigpt4.engine.features.get_world_size', lambda: 2)
    added = []
    for rank in (0, 1):
        monkeypatch.setattr(names, lambda rank=rank: rank)
        added.append(cache_features(cfg, folder)['added'])
    assert added == [18, 12]  # three shards and two
    assert len(FeatureCache(folder)) == 30


@pytest.mark.parametrize('first', [True, False])
def test_the_first_rank_says_what_makes_them(
    make, tmp_path, monkeypatch, first
):
    """Two that wrote cache.json at once would take each other's file."""
    there = []
    for name, function in (
        ('is_main_process', lambda: first),
        (
            'barrier',
            lambda: there.append((tmp_path / 'c/cache.json').exists()),
        ),
    ):
        monkeypatch.setattr(f'minigpt4.engine.features.{name}', function)
    cache_features(make('sampler'), tmp_path / 'c')
    assert there == [first, True]


def test_unreadable_images_are_noted_once(make, tmp_path, log, written):
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


def test_image_that_came_later_is_an_error(make, tmp_path):
    cfg = make('sampler')
    folder = tmp_path / 'cache'
    cache_features(cfg, folder)
    (tmp_path / 'pairs/image/2.jpg').write_bytes(
        (tmp_path / 'pairs/image/1.jpg').read_bytes() + b'later'
    )
    use_features(cfg, str(folder))
    with pytest.raises(ValueError, match='2.jpg of .* is not in .* again'):
        build_runner(cfg).train()


def weights_changed(cfg):
    path = cfg.model.backbone.checkpoint
    tensors = MODELS.build(cfg.model.backbone).state_dict()
    tensors['blocks.1.attn.proj.bias'] += 1e-3
    write_safetensors(path, {n: LazyTensor.of(t) for n, t in tensors.items()})


@pytest.mark.parametrize(
    'change, sentence',
    [
        (weights_changed, 'backbone weights .* instead of .* again'),
        (lambda c: c.model.neck.update(depth=1), 'neck .* instead of'),
        (
            lambda c: c.train_dataloader.dataset.pipeline[0].update(
                exact=True
            ),
            'image .*False.* instead of .*True',
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
            'normaliser None instead of .*mean',
        ),
    ],
)
def test_foreign_caches_are_refused(make, tmp_path, change, sentence):
    cfg = make('sampler')
    folder = tmp_path / 'cache'
    cache_features(cfg, folder)
    change(cfg)
    before = copy.deepcopy(cfg.model.to_dict())
    with pytest.raises(ValueError, match=sentence) as error:
        use_features(cfg, str(folder))
    assert '\n' not in str(error.value)
    assert cfg.model.to_dict() == before
    with pytest.raises(ValueError):
        cache_features(cfg, folder)


def test_where_weights_lie_and_their_type_do_not_matter(make, tmp_path):
    cfg = make('sampler')
    maker = maker_of(cfg)
    other = tmp_path / 'elsewhere.safetensors'
    other.write_bytes(open(cfg.model.backbone.checkpoint, 'rb').read())
    cfg.model.backbone.checkpoint = str(other)
    cfg.model.backbone.dtype = 'auto'
    assert maker_of(cfg) == maker


def test_types_are_not_mixed(make, tmp_path):
    cfg = make('sampler')
    cache_features(cfg, tmp_path / 'c')
    with pytest.raises(ValueError, match='are float16, not float32; go on'):
        cache_features(cfg, tmp_path / 'c', dtype='float32')


def test_folder_that_is_no_cache(make, tmp_path):
    with pytest.raises(FileNotFoundError, match='not a feature cache; make'):
        use_features(make('sampler'), str(tmp_path))


def test_command(make, tmp_path, capsys, monkeypatch):
    cfg = make('sampler')
    monkeypatch.setattr(config, 'load_config', lambda *_, **__: cfg)
    assert cli.main(['cache-features', 'x.py', '-o', str(tmp_path / 'c')]) == 0
    said = capsys.readouterr().out
    assert '5 images added, 0 already cached, 0 could not be read' in said
    cfg.model.backbone = ConfigDict(cfg.model.backbone, checkpoint='none.pth')
    assert cli.main(['cache-features', 'x.py', '-o', str(tmp_path / 'd')]) == 1
    assert 'error: ' in capsys.readouterr().err


# damaged caches and two writers


def filled(folder, count=4, rank=0):
    """A cache of some records, and the digests of its images."""
    writer = FeatureWriter(folder, {'by': 'test'}, (2, 3), 'float32', rank)
    digests = [digest_of(bytes([rank, i])) for i in range(count)]
    values = torch.arange(count).float()[:, None, None].expand(-1, 2, 3)
    writer.add(digests, values)
    writer.close()
    return digests


def test_a_second_writer_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_cache, 'LOCK_SECONDS', 0.1)
    first = FeatureWriter(tmp_path, {'by': 'test'}, (2, 3))
    with pytest.raises(ValueError, match='another process already writes'):
        FeatureWriter(tmp_path, {'by': 'test'}, (2, 3))
    FeatureWriter(tmp_path, {'by': 'test'}, (2, 3), rank=1).close()
    first.close()
    FeatureWriter(tmp_path, {'by': 'test'}, (2, 3)).close()


def test_the_lock_of_a_killed_writer_is_free(tmp_path):
    child = os.fork()
    if child == 0:
        FeatureWriter(tmp_path, {'by': 'test'}, (2, 3), 'float32')
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert len(filled(tmp_path)) == 4


@pytest.mark.parametrize('at', [0, 23, 30, 95])
def test_a_damaged_record_is_one_bad_sample(tmp_path, at):
    digests = filled(tmp_path)
    path = tmp_path / '0000.features'
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(bytes(data))
    cache = FeatureCache(tmp_path)
    for row, digest in enumerate(digests):
        if row == at // 24:
            with pytest.raises(SampleError, match=f'record {row} of .* damag'):
                cache[digest]
        else:
            assert cache[digest].unique().tolist() == [row]


def test_a_file_that_is_cut_while_it_is_read_is_one_bad_sample(tmp_path):
    digests = filled(tmp_path)
    cache = FeatureCache(tmp_path)
    cache[digests[0]]
    os.truncate(tmp_path / '0000.features', 30)
    assert cache[digests[0]].unique().tolist() == [0]
    with pytest.raises(SampleError, match='record 3'):
        cache[digests[3]]


def test_a_cache_without_checksums_is_read_and_gets_them(tmp_path):
    digests = filled(tmp_path)
    (tmp_path / '0000.checksums').unlink()
    assert FeatureCache(tmp_path)[digests[2]].unique().tolist() == [2]
    FeatureWriter(tmp_path, {'by': 'test'}, (2, 3), 'float32').close()
    assert (tmp_path / '0000.checksums').stat().st_size == 16
    assert FeatureCache(tmp_path)[digests[2]].unique().tolist() == [2]


@pytest.mark.parametrize('file', ['features', 'digests', 'checksums'])
@pytest.mark.parametrize('size', [0, 1, 35, 50])
def test_cut_files_hold_what_is_whole_and_are_filled_again(
    tmp_path, file, size
):
    digests = filled(tmp_path)
    path = tmp_path / f'0000.{file}'
    if size < path.stat().st_size:
        os.truncate(path, size)
    cache = FeatureCache(tmp_path)
    for row, digest in enumerate(digests):
        if digest in cache:
            assert cache[digest].unique().tolist() == [row]
    writer = FeatureWriter(tmp_path, {'by': 'test'}, (2, 3), 'float32')
    left = [i for i, d in enumerate(digests) if d not in cache]
    if left:
        values = torch.tensor(left).float()[:, None, None].expand(-1, 2, 3)
        writer.add([digests[i] for i in left], values)
    writer.close()
    cache = FeatureCache(tmp_path)
    for row, digest in enumerate(digests):
        assert cache[digest].unique().tolist() == [row]


@pytest.mark.parametrize(
    'text',
    [
        '',
        '{',
        'null',
        '[' * 100_000,
        '{}',
        '{"maker": {}, "shape": [2], "dtype": "float16"}',
        '{"maker": {}, "shape": [2, -3], "dtype": "float16"}',
        '{"maker": {}, "shape": "ab", "dtype": "float16"}',
        '{"maker": {}, "shape": [2, 3], "dtype": "int8"}',
        '{"maker": 5, "shape": [2, 3], "dtype": "float16"}',
    ],
)
def test_a_damaged_description_is_named(tmp_path, text):
    (tmp_path / 'cache.json').write_text(text)
    with pytest.raises(ValueError, match=r'cache\.json is damaged or not of'):
        FeatureCache(tmp_path)


@pytest.mark.parametrize(
    'name', ['cache.json', '0000.features', '0000.digests', '0000.skipped']
)
def test_a_cache_file_that_would_block_is_refused(tmp_path, name):
    filled(tmp_path)
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    for use in (
        lambda: FeatureCache(tmp_path),
        lambda: FeatureWriter(tmp_path, {'by': 'test'}, (2, 3), 'float32'),
    ):
        with pytest.raises(ValueError, match='is a FIFO'):
            use()


def test_missing_digests_are_named(tmp_path):
    filled(tmp_path)
    (tmp_path / '0000.digests').unlink()
    with pytest.raises(ValueError, match=r'0000\.digests is missing'):
        FeatureCache(tmp_path)


def test_a_full_disk_is_one_sentence(tmp_path):
    writer = FeatureWriter(tmp_path, {'by': 'test'}, (2, 3), 'float32')
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30, limits[1]))
    try:
        with pytest.raises(OSError, match=r'0000\.features could not be wri'):
            writer.add(
                [digest_of(b'a'), digest_of(b'b')], torch.zeros(2, 2, 3)
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, previous)
    writer.close()
    assert len(FeatureCache(tmp_path)) == 0
    assert len(filled(tmp_path)) == len(FeatureCache(tmp_path)) == 4


@pytest.mark.parametrize('workers', [0, 2])
def test_a_signal_stops_after_what_was_read_is_written(
    make, tmp_path, monkeypatch, workers
):
    cfg = make('stream', **{'train_dataloader.num_workers': workers})
    count = 0
    advance = features.Progress.advance

    def interrupted(*args):
        nonlocal count
        count += 1
        if count == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        advance(*args)

    monkeypatch.setattr(features.Progress, 'advance', interrupted)
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
def test_command_names_a_config_that_is_none(tmp_path, capsys, text, message):
    path = tmp_path / 'mine.py'
    path.write_text(text, 'latin-1')
    assert (
        cli.main(['cache-features', str(path), '-o', str(tmp_path / 'c')]) == 1
    )
    err = capsys.readouterr().err
    assert err.count('\n') == 1
    assert 'mine.py' in err and message in err


def test_command_that_is_stopped_says_what_is_kept(
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
