# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Both sides of the rows of answers do the same work; nothing is timed."""

import importlib
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

HERE = Path(__file__).parent.parent / 'benchmarks'


@pytest.fixture(autouse=True)
def _threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    return importlib.import_module


@pytest.fixture
def folder(bench):
    return bench('mini_prop').weights('tiny')


@pytest.fixture
def same(bench):
    """Works once on each side, and compares the guards."""

    def check(sides, build):
        guards = []
        for side in sides:
            work, guard = build(side)
            figure = work()
            assert figure is None or figure > 0
            guards.append({k: np.asarray(v) for k, v in guard.items()})
        for a, b in itertools.pairwise(guards):
            good, text = bench('harness').compare_guards(a, b)
            assert good, text
        return guards[0]

    return check


def test_decode(bench, folder, same):
    build = bench('generation').build
    guard = same(
        ('ours', 'transformers', 'official'),
        lambda side: build(side, 'decode', folder, dict(prompt=7, tokens=9)),
    )
    assert guard['ids'].shape == (1, 9)
    settings = dict(rows=3, prompt=7, tokens=9, with_prefill=False)
    guard = same(
        ('ours', 'transformers'),
        lambda side: build(side, 'decode', folder, settings),
    )
    # the answers tell prompts apart, so the guard can fail
    assert len({tuple(row) for row in guard['ids'].tolist()}) == 3


def test_without_its_environment_the_live_peer_is_skipped(bench, monkeypatch):
    generation = bench('generation')
    monkeypatch.delenv(generation.LIVE_VARIABLE, raising=False)
    row = generation.compare(
        generation.Comparison('x', 'decode', 'tiny', {}, 'ms', 9, 'live', 6),
        1,
    )
    assert generation.LIVE_VARIABLE in row['skipped']
    assert row['goal'] == 6 and not row['met']


def test_captions_of_forced_lengths(bench, folder, same):
    generation = bench('generation')
    settings = dict(count=5, slots=2, median=8)
    guard = same(
        ('ours', 'transformers', 'official'),
        lambda side: generation.build(side, 'caption', folder, settings),
    )
    lengths = generation.forced_lengths(5, 8)
    assert guard['lengths'].tolist() == lengths
    assert len(set(lengths)) > 1 and len(guard['ids']) == sum(lengths)


@pytest.mark.parametrize('turn', ['turn-1', 'turn-1-repeated-image', 'turn-3'])
def test_first_tokens_of_turns(bench, folder, same, turn):
    ttft = bench('ttft')
    assert turn in ttft.GOALS
    guard = same(
        ('ours', 'official'), lambda side: ttft.build(side, turn, folder, 12)
    )
    number = int(turn.split('-')[1])
    assert number == 1 or guard['answers'].shape == (number - 1, 12)
    assert len(set(guard['likelihood'].tolist())) == ttft.GUARD_REPEATS


def test_a_later_turn_reads_its_own_tokens_alone(bench, folder):
    ttft, generation = bench('ttft'), bench('generation')
    side = ttft.Ours(generation.our_model(folder))
    images = bench('mini_prop').images(1, 'tiny')
    chat = ttft.Chat(side, images, 'turn-2', 40)
    known = []
    submit = side.engine.submit

    def listen(*args, **settings):
        known.append(submit(*args, **settings))
        return known[-1]

    side.engine.submit = listen
    for _ in range(3):
        chat.first_token()
        # all of turn 1 but the latest token, which nobody has read
        last = known[-1]
        assert last.reused_tokens > 40
        assert last.prompt_tokens - last.reused_tokens < 60


def test_choice(bench, folder, same):
    build = bench('multi_choice').build
    guard = same(('ours', 'official'), lambda side: build(side, folder))
    assert len(np.unique(guard['likelihoods'])) > 4


def test_matrix_products(bench, folder, same):
    build = bench('batch_scale').build
    same(('ours', 'peer'), lambda side: build(side, 4, folder))


def test_batch_scale_asks_for_more_of_larger_batches(bench, monkeypatch):
    batch_scale = bench('batch_scale')
    harness = bench('harness')
    rates = dict(decode=iter((10, 17, 15)), caption=iter((5, 6, 5.5)))
    gains = iter((1, 2, 2))

    def compare(row, repeats):
        return harness.row(
            row.name,
            next(rates[row.task]),
            's',
            ratio=2,
            goal=1,
            guard_ok=True,
        )

    monkeypatch.setattr(batch_scale, 'compare', compare)
    monkeypatch.setattr(
        batch_scale, 'products', lambda *_: dict(ratio=next(gains))
    )
    rows = list(batch_scale.measure(1, 'tiny', (1, 2, 4)))
    decode = [row for row in rows if row.get('work') == 'decode']
    assert [row['at_least'] for row in decode] == [8, 16, 17]
    assert [row['met'] for row in decode] == [True, True, False]
    caption = [row for row in rows if row.get('work') == 'caption']
    assert [row['met'] for row in caption] == [True, True, False]


def test_curve(bench, tmp_path):
    plot, harness = bench('plot'), bench('harness')
    rows = [
        dict(
            harness.row(
                f'batch-scale {work} B={batch}',
                batch * 2.0,
                'tokens/CPU-s',
                peer=batch * 1.0,
                ratio=2,
                at_least=1,
                guard_ok=True,
            ),
            work=work,
            batch=batch,
            peer_name='peer',
        )
        for work in ('decode', 'caption')
        for batch in (1, 2)
    ]
    results = tmp_path / 'results'
    bench('run').Results(results).store(rows)
    assert plot.scale(results) == rows
    assert plot.newest(results) == []  # no bar of each point
    plot.draw_scale(plot.scale(results), tmp_path / 'a.png')
    assert (tmp_path / 'a.png').stat().st_size > 1000


@pytest.mark.parametrize('name', ['decode-b1', 'ttft-h200', 'caption-h200'])
def test_gpu_rows_on_a_cpu(bench, monkeypatch, name):
    gpu_decode = bench('gpu_decode')
    for constant, value in dict(
        TOKENS=6, REPEATS=1, IMAGES=4, SLOTS=3, CAPTION=5
    ).items():
        monkeypatch.setattr(gpu_decode, constant, value)
    monkeypatch.setattr(bench('ttft').Chat.__init__, '__defaults__', (12,))
    compiled = dict(gpu_decode.GOALS)
    compiled.pop('decode-b1 compiled')  # takes a compiler and a minute
    monkeypatch.setattr(gpu_decode, 'GOALS', compiled)
    rows = gpu_decode.measure(name, 'tiny', 'cpu')
    assert rows and all(row['guard_ok'] for row in rows)
    assert all(row['ours'] > 0 for row in rows)
