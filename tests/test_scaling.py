# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The simulation of stage 1 on many GPUs, and what it is compared with."""

import dataclasses
import importlib
import math
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.structures import BaseDataElement
from torch.utils.flop_counter import FlopCounterMode

import minigpt4
from minigpt4.prompts import Turn
from minigpt4.scaling import simulation
from minigpt4.scaling.settings import RANGES, Settings, check_settings

ROOT = Path(__file__).parents[1]
NANO = ROOT / 'configs' / 'minigpt4' / 'stage1_nano.py'


@pytest.fixture
def scaling(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    return importlib.import_module('scaling')


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    monkeypatch.syspath_prepend(str(ROOT / 'benchmarks'))
    return importlib.import_module('stage1_scaling')


@pytest.fixture
def work():
    """About the 7B model."""
    return simulation.Work(
        vision=533e9,
        position=12.9e9,
        attention=5.2e5,
        target=0.5e9,
        image_positions=32,
        vision_calls=260,
        llm_calls=224,
        vision_bytes=2.4e9,
        llm_bytes=13.5e9,
        layer_bytes=12.95e9,
        layers=32,
        trained=3_149_824,
        fixed_memory=15.9e9,
        position_memory=4.2e6,
        target_memory=320e3,
    )


@pytest.fixture
def quiet():
    """No stragglers: equal captions, equal GPUs, nothing fails."""
    return Settings(
        caption_sigma=0,
        jitter=0,
        shard_failures=0,
        failure_hours=math.inf,
        steps=4,
    )


def replace(settings, **changes):
    return dataclasses.replace(settings, **changes)


@pytest.mark.parametrize('shard', [False, True])
def test_twice_the_gpus_are_never_slower_without_stragglers(
    work, quiet, shard
):
    if shard:  # no machine has more GPUs: see the next test
        quiet = replace(quiet, gpus_per_node=64)
    totals = [
        simulation.simulate(work, replace(quiet, gpus=2**i, shard=shard)).total
        for i in range(7)
    ]
    assert totals == sorted(totals, reverse=True)
    # with twice the batch for twice the GPUs too
    totals = [
        simulation.simulate(
            work, replace(quiet, gpus=2**i, batch=64 * 2**i, shard=shard)
        ).total
        for i in range(7)
    ]
    assert totals == sorted(totals, reverse=True)


def test_sharding_over_two_machines_waits_for_the_network(work, quiet):
    one = simulation.simulate(work, replace(quiet, gpus=8, shard=True))
    two = simulation.simulate(work, replace(quiet, gpus=16, shard=True))
    assert one.seconds['all-gather'] == 0
    assert two.worst == 'all-gather'
    assert two.total > one.total


def test_every_rank_that_reads_all_overloads_the_storage(work, quiet):
    many = replace(quiet, gpus=64, storage=1e9)
    split = simulation.simulate(work, many)
    whole = simulation.simulate(work, replace(many, reads_all=True))
    assert whole.bytes_read == 64 * split.bytes_read
    assert split.loads['storage'] < 1 < whole.loads['storage']
    assert split.seconds['data'] == 0 < whole.seconds['data']
    # its data workers skip the pairs of the other ranks
    read = simulation.worker_seconds(replace(many, reads_all=True))
    others = many.batch * 63 / 64
    assert read - simulation.worker_seconds(many) == pytest.approx(
        others * many.read_s
    )
    assert whole.worst == 'data'
    # then the storage sets the speed
    assert whole.total == pytest.approx(
        whole.bytes_read / 1e9 + whole.seconds['checkpoints']
    )


def test_the_shares_sum_to_one(work):
    for gpus in (1, 8, 64):
        settings = Settings(
            gpus=gpus,
            pairs=5e9,
            shard=True,
            reads_all=True,
            slow_gpus=1,
            shard_failures=1e-2,
            link_rot=0.3,
            failure_hours=1000,
        )
        result = simulation.simulate(work, settings)
        assert sum(result.shares.values()) == pytest.approx(1)
        assert min(result.shares.values()) >= 0
        assert set(result.shares) == {*simulation.USEFUL, *simulation.IDLE}
        assert result.failures > 0 and result.shares['failures'] > 0


def test_the_seed_determines_the_result(work):
    settings = Settings(gpus=8, pairs=5e9)
    first = simulation.simulate(work, settings)
    assert first == simulation.simulate(work, settings)
    other = simulation.simulate(work, replace(settings, seed=1))
    assert other.total != first.total
    assert other.total == pytest.approx(first.total, rel=0.01)


def test_bytes_between_gpus(work, quiet):
    assert simulation.all_reduce_bytes(1, 1000) == 0
    assert simulation.all_reduce_bytes(2, 1000) == 4000
    assert simulation.all_reduce_bytes(4, 1000) == 6000
    assert simulation.all_gather_bytes(4, 1000, 3) == 2250
    one = replace(quiet, gpus=8, hop_s=0)
    assert simulation.reduce_seconds(work, one) == pytest.approx(
        2 * 7 / 8 * 4 * 3_149_824 / 200e9
    )
    # two machines are connected by their network
    two = replace(one, gpus=16)
    assert simulation.reduce_seconds(work, two) == pytest.approx(
        2 * 15 / 16 * 4 * 3_149_824 / 25e9
    )


def test_what_is_slower(work, quiet):
    settings = replace(quiet, gpus=8)
    base = simulation.simulate(work, settings)
    for cause, changes in {
        'stragglers': dict(slow_gpus=1),
        'calls and weights': dict(micro_batch=1),
        'all-gather': dict(shard=True, micro_batch=1, link=1e10),
        'data': dict(decode_s=1),
        'blocked shards': dict(shard_failures=0.1),
        'failures': dict(failure_hours=1),
        'checkpoints': dict(save_interval=10),
    }.items():
        other = simulation.simulate(work, replace(settings, **changes))
        assert other.seconds[cause] > base.seconds[cause], cause
        assert other.total > base.total, cause
    # a GPU that needs 1.25 times as long stops all others
    slow = simulation.simulate(work, replace(settings, slow_gpus=1))
    assert slow.seconds['stragglers'] == pytest.approx(
        0.25 * sum(base.seconds[name] for name in simulation.USEFUL)
    )
    # more data workers than shards
    few = replace(settings, pairs=1e5, shard_pairs=10000)
    assert simulation.simulate(work, few).loads['shards'] == 3.2
    # one time limit for each blocked shard, unless batches are in stock
    blocked = replace(settings, shard_failures=0.1, shard_timeout=1)
    result = simulation.simulate(work, blocked)
    assert result.seconds['blocked shards'] == 0


def test_dead_links_shorten_the_run(work, quiet):
    whole = simulation.simulate(work, replace(quiet, pairs=1e8))
    rest = simulation.simulate(work, replace(quiet, pairs=1e8, link_rot=0.25))
    assert rest.steps == pytest.approx(0.75 * whole.steps, abs=1)
    assert rest.bytes_read == pytest.approx(0.75 * whole.bytes_read, rel=1e-5)


def test_gpus_that_do_not_divide_the_batch(work):
    with pytest.raises(ValueError, match='3 GPUs do not divide a batch'):
        simulation.simulate(work, Settings(gpus=3))


def test_more_slow_gpus_than_gpus(work):
    with pytest.raises(ValueError, match='slow_gpus is 9; expected at most'):
        simulation.simulate(work, Settings(gpus=8, slow_gpus=9))


def test_the_operations_of_the_nano_model(scaling):
    cfg = Config.fromfile(NANO)
    work = scaling.count_work(cfg, 'fp32')
    model = minigpt4.get_model(cfg, pretrained=False)
    model.train()
    images = torch.zeros(2, 3, model.image_size, model.image_size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.encode_images(images)
    # torch counts attention on the meta device, but not that of a CPU
    assert 1 < 2 * work.vision / counter.get_total_flops() < 1.1
    samples = [
        BaseDataElement(
            images=[image], turns=[Turn('', 'a red circle on blue ' * 2)]
        )
        for image in torch.zeros(
            2, 3, model.image_size, model.image_size
        ).byte()
    ]
    (piece,) = model.collator(training=True)(samples)['pieces']
    inputs = piece['inputs']
    queries = torch.zeros(2, model.neck.num_tokens, 192)
    queries.requires_grad_()
    model.token_losses(None, inputs, queries)  # stores the prefix
    with FlopCounterMode(display=False) as forward:
        loss = model.token_losses(None, inputs, queries).mean()
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    expected = inputs.token_ids.numel() * work.position
    expected += len(inputs.targets) * work.target
    assert forward.get_total_flops() == pytest.approx(expected, rel=1e-3)
    assert backward.get_total_flops() == pytest.approx(expected, rel=1e-3)


def test_memory_is_the_estimate_of_the_other_tool(scaling):
    memory = importlib.import_module('memory')
    from minigpt4.registry import MODELS

    cfg = Config.fromfile(NANO)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    work = scaling.count_work(cfg)
    settings = Settings(gpus=1, batch=16, max_tokens=20)
    positions = model.num_image_tokens + 20
    assert simulation.peak_memory(work, settings) == pytest.approx(
        memory.estimate(model, 'bf16', 16, positions, 20)
    )
    big = replace(settings, gpus=8, batch=128)
    kept = (1 / 8 + 2 / work.layers) * work.layer_bytes
    assert simulation.peak_memory(work, replace(big, shard=True)) == (
        pytest.approx(
            simulation.peak_memory(work, big) - work.layer_bytes + kept
        )
    )


def test_the_command(scaling, monkeypatch, capsys):
    monkeypatch.setattr(
        sys,
        'argv',
        ['scaling.py', str(NANO), '--gpus', '1', '4']
        + ['--pairs', '1e6', '--set', 'link_rot=0.5', 'reads_all=True'],
    )
    scaling.main()
    out = capsys.readouterr().out
    assert '1,000,000 links, 50 % dead: 500,000 pairs, 0.01 TB' in out
    assert '| GPUs | 1 | 4 |' in out
    assert '| TB read | 0.01 | 0.04 |' in out
    monkeypatch.setattr(
        sys, 'argv', ['scaling.py', str(NANO), '--set', 'linkrot=1']
    )
    with pytest.raises(SystemExit) as error:
        raise SystemExit(scaling.main())
    assert error.value.code == 1
    assert "there is no setting 'linkrot'" in capsys.readouterr().err


def test_settings_come_from_the_config(scaling):
    cfg = Config.fromfile(
        ROOT / 'configs' / 'minigpt4' / 'stage1_13b_sharded.py'
    )
    settings = scaling.settings_of(cfg, dict(pairs=1e6, link_rot=0))
    assert settings.shard and settings.micro_batch == 16
    assert settings.batch == 256 and settings.max_tokens == 32
    assert settings.pairs == 1e6 and settings.link_rot == 0
    assert scaling.settings_of(cfg, dict(batch=512.0)).batch == 512
    with pytest.raises(ValueError, match="batch is 'many'; expected an int"):
        scaling.settings_of(cfg, dict(batch='many'))


@pytest.mark.parametrize(
    'name', ['minigpt_4_nano_caption.py', 'stage2_nano.py']
)
def test_config_of_another_kind_is_refused(scaling, name):
    cfg = Config.fromfile(NANO.with_name(name))
    with pytest.raises(ValueError, match='give a config of stage 1'):
        scaling.settings_of(cfg, {})


def test_config_without_data_workers_counts_as_one(scaling):
    cfg = Config.fromfile(NANO)
    cfg.train_dataloader.num_workers = 0
    assert scaling.settings_of(cfg, {}).workers == 1


def test_each_setting_has_a_range_with_its_default():
    fields = {field.name for field in dataclasses.fields(Settings)}
    assert fields == RANGES.keys()
    check_settings(Settings())


@pytest.mark.parametrize(
    'change',
    [
        dict(link_rot=30),
        dict(link_rot=-0.1),
        dict(utilisation=50),
        dict(utilisation=0),
        dict(batch=64.7),
        dict(batch=True),
        dict(storage=math.nan),
        dict(network=math.inf),
        dict(storage=0),
        dict(pairs=0),
        dict(workers=0),
        dict(seed=-1),
        dict(gpus=0),
        dict(gpus=-8),
        dict(shard=2),
        dict(steps='many'),
        dict(failure_hours=None),
        dict(caption_tokens=[1, 2]),
    ],
)
def test_values_out_of_their_range(scaling, change):
    ((name, _),) = change.items()
    cfg = Config.fromfile(NANO)
    with pytest.raises(ValueError, match=f'^{name} is .*; expected .*[.]$'):
        scaling.settings_of(cfg, change)


@pytest.mark.parametrize('end', [0, 1])
def test_the_ends_of_the_ranges(work, quiet, end):
    for name, ends in RANGES.items():
        value = ends[end]
        changes = dict(gpus=1, batch=1, steps=1)
        changes[name] = value
        if name == 'gpus':
            changes['batch'] = value
        try:
            result = simulation.simulate(work, replace(quiet, **changes))
        except ValueError as error:  # of numbers that do not fit together
            assert '; expected at most ' in str(error)
        else:
            assert 0 < result.total < math.inf


def test_runs_that_are_too_large(work, quiet):
    with pytest.raises(ValueError, match='steps . batch is 100,000,000,000'):
        simulation.simulate(work, replace(quiet, batch=10**6, steps=10**5))
    slow = replace(quiet, failure_hours=0.001, pairs=1e12)
    with pytest.raises(ValueError, match='such a run never ends'):
        simulation.simulate(work, slow)


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--gpus', '0'], 'gpus is 0; expected an integer from 1 to 100,000.'),
        (['--gpus', '1', '-4'], 'gpus is -4; expected an integer'),
        (['--pairs', 'nan'], 'pairs is nan; expected a number from 1 to'),
        (['--pairs', '0'], 'pairs is 0.0; expected a number from 1 to'),
        (['--set', 'gpus=4'], '--gpus sets the number of GPUs; omit gpus'),
        (['--set', 'seed=-1'], 'seed is -1; expected an integer from 0 to'),
        (
            ['--set', 'storage=inf'],
            'storage is inf; expected a number from 1,000 to',
        ),
    ],
)
def test_wrong_values_on_the_command_line(
    scaling, monkeypatch, capsys, words, message
):
    monkeypatch.setattr(sys, 'argv', ['scaling.py', str(NANO), *words])
    with pytest.raises(SystemExit) as error:
        raise SystemExit(scaling.main())
    assert error.value.code == 1
    assert message in capsys.readouterr().err


def test_the_fit_finds_the_settings_that_made_the_figures(benchmark, work):
    work = replace(work, trained=1000)  # the hops take their bytes too
    truth = replace(
        Settings(serial=True, utilisation=1),
        flops=6e10,
        call_s=1e-4,
        hop_s=1e-3,
        link=1e9,
    )
    cases = [case for case in benchmark.CASES if case.model == 'small']
    measured = {}
    for case in cases:
        blank = benchmark.Measured(0, 50 * case.batch / case.ranks, 0)
        seconds = benchmark.predict(work, truth, case, blank)
        measured[case] = blank._replace(seconds=seconds)
    found = benchmark.fit(work, measured)
    assert found.flops == pytest.approx(truth.flops)
    assert found.call_s == pytest.approx(truth.call_s)
    assert found.hop_s == pytest.approx(truth.hop_s, rel=0.02)
    assert found.link == pytest.approx(truth.link, rel=0.02)
    assert any(not case.fits for case in cases)


def test_costs_of_a_rank_are_recorded(benchmark, tmp_path):
    hook = importlib.import_module('cost_hook').CostHook(tmp_path / 'costs')
    with pytest.raises(ValueError, match='has no file rank-N.json'):
        benchmark.read(tmp_path / 'costs', 4)
    hook.before_train(None)
    block = None
    for i in range(3):
        block = torch.ones(5_000_000 * (i + 1))  # 20 MB and more
        hook.after_train_iter(
            None, i, dict(counts=dict(samples=4, tokens=100 + i))
        )
    assert block is not None
    with pytest.raises(ValueError, match='have not 5 samples each'):
        benchmark.read(tmp_path / 'costs', 5)
    measured = benchmark.read(tmp_path / 'costs', 4)
    assert measured.positions == 101.5  # without the first step
    assert measured.seconds >= 0
    assert measured.peak > 20e6
