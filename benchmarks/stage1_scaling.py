# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Steps of stage 1 on 1, 2 and 4 ranks against ``tools/scaling.py``.

Each case is a training by ``tools/dist_train.sh``, whose CPU seconds for a
step (user and system, of the busier rank; the best step) are compared with
those of the simulation. Two cases of each model give it the speed of a thread
and the time of a call, one with two ranks the time of a hop; it predicts the
others.
"""

import dataclasses
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import harness

ROOT = Path(__file__).parents[1]
STEPS = dict(nano=16, small=4)
PHOTOS = 'MINIGPT4_PHOTOS'
LARGEST_ERROR = 25  # percent
PAIRS = 64  # of all ranks, for the data workers


class Case(NamedTuple):
    """A training.

    Attributes:
        model: ``'nano'`` or ``'small'``.
        ranks: Number of ranks.
        batch: Samples of all ranks.
        micro: ``model.micro_batch_size``.
        shard: Whether the LLM is sharded.
        tokens: ``model.max_text_length``.
        fits: Whether the simulation is fitted to it.
    """

    model: str
    ranks: int
    batch: int
    micro: int = 64
    shard: bool = False
    tokens: int = 32
    fits: bool = False

    @property
    def name(self) -> str:
        """What differs from the other cases of the model."""
        text = f'{self.model}, {self.ranks} ranks, batch {self.batch}'
        text += f', micro batch {self.micro}' * (self.micro < self.batch)
        text += f', {self.tokens} tokens' * (self.tokens != 32)
        return text + ', sharded' * self.shard


class Measured(NamedTuple):
    """What a training cost.

    Attributes:
        seconds: CPU seconds of a step of the busier rank.
        positions: Positions of a rank's samples in the LLM.
        peak: Resident bytes of the larger rank, at the peak of the steps.
    """

    seconds: float
    positions: float
    peak: int


CASES = [
    Case('nano', 1, 8, fits=True),
    Case('nano', 1, 64, fits=True),
    Case('nano', 1, 32),
    Case('nano', 1, 32, tokens=6),
    Case('nano', 2, 32, fits=True),
    Case('nano', 4, 32),
    Case('nano', 4, 64),
    Case('nano', 2, 32, micro=16, shard=True, fits=True),
    Case('nano', 4, 32, micro=8, shard=True),
    Case('small', 1, 4, fits=True),
    Case('small', 1, 20, fits=True),
    Case('small', 1, 8),
    Case('small', 1, 20, micro=5),
    Case('small', 1, 20, tokens=6),
    Case('small', 2, 8, fits=True),
    Case('small', 2, 20),
    Case('small', 4, 8),
    Case('small', 2, 8, micro=4, shard=True, fits=True),
    Case('small', 4, 8, micro=2, shard=True),
]


def write_config(model: str, folder: Path) -> Path:
    """Write the config of a model with the hook that records the costs."""
    from mmengine.config import Config

    cfg = Config.fromfile(ROOT / 'configs' / 'minigpt4' / f'stage1_{model}.py')
    cfg.default_hooks.cost = dict(type='cost_hook.CostHook', folder='')
    cfg.default_hooks.checkpoint.interval = 10**9
    cfg.default_hooks.pop('sample_captions')
    cfg.default_hooks.pop('warm_start', None)
    dataset = cfg.train_dataloader.dataset
    if model == 'small':
        dataset.data_root = os.environ[PHOTOS]
        dataset.image_folder = 'train'
    else:
        for source in dataset.sources:
            source.shards = str(folder / f'nano/stage1/{source.name}/*.tar')
    path = folder / f'stage1_{model}.py'
    cfg.dump(path)
    return path


def prepare(folder: Path) -> None:
    """Write the configs and the shards of the nano model."""
    from minigpt4.nano.write_dataset import write_dataset

    write_dataset(
        folder / 'nano',
        pairs=4000,
        descriptions=40,
        test_scenes=20,
        seed=0,
        preferences=8,
    )
    for model in STEPS:
        if model != 'small' or PHOTOS in os.environ:
            write_config(model, folder)


def run(case: Case, folder: Path) -> Measured:
    """Run the training of a case."""
    costs = Path(tempfile.mkdtemp(dir=folder))
    options = [
        f'max_iters={STEPS[case.model]}',
        f'global_batch_size={case.batch}',
        f'model.micro_batch_size={case.micro}',
        f'model.max_text_length={case.tokens}',
        f'model.decoder.shard={case.shard}',
        f'default_hooks.cost.folder={costs}',
    ]
    path = os.environ.get('PYTHONPATH', '')
    subprocess.run(
        ['bash', ROOT / 'tools' / 'dist_train.sh']
        + [folder / f'stage1_{case.model}.py', str(case.ranks)]
        + ['--work-dir', costs / 'work_dir', '--cfg-options', *options],
        env={
            **os.environ,
            'PYTHONPATH': f'{path}{os.pathsep}{harness.HERE}',
            'OMP_NUM_THREADS': '1',
            'PORT': str(20000 + os.getpid() % 10000),
        },
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return read(costs, case.batch // case.ranks)


def read(costs: Path, samples: int) -> Measured:
    """Read the files of :class:`cost_hook.CostHook`.

    Args:
        costs: Their folder.
        samples: Samples of a rank's batch.

    Raises:
        ValueError: There is none, or samples were skipped.
    """
    ranks = [json.loads(f.read_text()) for f in costs.glob('rank-*.json')]
    if not ranks:
        raise ValueError(f'{costs} has no file rank-N.json of CostHook.')
    # the first step also fills caches
    steps = [rank['steps'][1:] for rank in ranks]
    if {n for rank in steps for _, n, _ in rank} != {samples}:
        raise ValueError(
            f'the steps of {costs} have not {samples} samples each; see why '
            'samples were skipped.'
        )
    positions = [p for rank in steps for _, _, p in rank]
    return Measured(
        max(min(seconds for seconds, _, _ in rank) for rank in steps),
        sum(positions) / len(positions),
        max(rank['peak'] for rank in ranks),
    )


def fit(work, measured: dict[Case, Measured]):
    """Return settings of the simulation for this machine.

    A thread's speed and the time of a call follow from two cases with one
    rank, the time of a hop from one with two ranks, and the speed of a link
    from one that is sharded.

    Args:
        work: What the model computes.
        measured: The measured cases of a model.
    """
    from minigpt4.scaling import simulation

    settings = simulation.Settings(serial=True, utilisation=1, hop_s=0)

    def solve(case: Case, **changes) -> float:
        """The value of a setting that is 0 now, and 1 in the changes."""
        now = predict(work, settings, case, measured[case])
        one = dataclasses.replace(settings, **changes)
        one = predict(work, one, case, measured[case]) - now
        return max(0.0, measured[case].seconds - now) / one

    fitted = [case for case in measured if case.fits]
    alone = [case for case in fitted if case.ranks == 1]
    bare = dataclasses.replace(settings, flops=1, call_s=0)
    flops = [predict(work, bare, case, measured[case]) for case in alone]
    seconds = [measured[case].seconds for case in alone]
    speed = (flops[1] - flops[0]) / (seconds[1] - seconds[0])
    settings = dataclasses.replace(
        settings, flops=speed, call_s=0, link=math.inf
    )
    settings = dataclasses.replace(settings, call_s=solve(alone[0], call_s=1))
    for case in fitted:
        if case.ranks > 1 and not case.shard:
            settings = dataclasses.replace(
                settings, hop_s=solve(case, hop_s=1)
            )
    for case in fitted:
        if case.shard:
            settings = dataclasses.replace(
                settings, link=1 / solve(case, link=1)
            )
    return settings


def predict(work, settings, case: Case, m: Measured) -> float:
    """Return the CPU seconds of a rank's step that the simulation expects."""
    from minigpt4.scaling import simulation

    settings = dataclasses.replace(
        settings,
        gpus=case.ranks,
        batch=case.batch,
        micro_batch=case.micro,
        shard=case.shard,
    )
    costs = simulation.pass_seconds(
        work, settings, case.batch // case.ranks, m.positions
    )
    return sum(costs.values()) + simulation.reduce_seconds(work, settings)


def compare(measured: dict[Case, Measured]) -> Iterator[dict]:
    """Yield a row of the results for each case of one model."""
    import scaling
    from mmengine.config import Config

    (model,) = {case.model for case in measured}
    path = ROOT / 'configs' / 'minigpt4' / f'stage1_{model}.py'
    work = scaling.count_work(Config.fromfile(path), 'fp32')
    settings = fit(work, measured)
    for case, m in measured.items():
        expected = predict(work, settings, case, m)
        error = 100 * (expected / m.seconds - 1)
        yield harness.row(
            f'stage1-scaling {case.name}',
            abs(error),
            '% error',
            at_most=LARGEST_ERROR,
            guard_ok=True,
            guard='fitted' if case.fits else 'predicted',
            measured=m.seconds,
            expected=expected,
            peak_mb=m.peak / 1e6,
            fitted=dict(
                gflops=settings.flops / 1e9,
                call_us=settings.call_s * 1e6,
                hop_ms=settings.hop_s * 1e3,
                link_mb_s=settings.link / 1e6,
            ),
        )


def worker_seconds(folder: Path, ranks: int) -> float:
    """CPU seconds of a rank's data worker for its part of 64 pairs."""
    import torch

    from minigpt4.datasets import ImageTextPairs, LoadImages, PackSample

    torch.set_num_threads(1)
    dataset = ImageTextPairs(
        [dict(name='a', shards=str(folder / 'nano/stage1/a/*'), weight=1)],
        [dict(type=LoadImages, size=64), dict(type=PackSample)],
        batch_size=PAIRS // ranks,
    )
    dataset.world_size = ranks
    batches = iter(dataset)
    next(batches)
    times = []
    for _ in range(12):
        start = time.process_time()
        next(batches)
        times.append(time.process_time() - start)
    # a batch in which a shard begins also fills the shuffle buffer
    return sum(times) / len(times)


def worker_rows(folder: Path, repeats: int) -> Iterator[dict]:
    """Yield rows of the data workers, fitted to one and two ranks."""
    from minigpt4.scaling import simulation

    numbers = (1, 2, 4, 8)
    best = {n: math.inf for n in numbers}
    for _ in range(repeats):
        for n in numbers:
            best[n] = min(best[n], worker_seconds(folder, n))
    half = PAIRS // 2
    decode_s = best[1] / PAIRS
    read_s = max(0.0, best[2] - half * decode_s) / half
    for n in numbers[2:]:
        expected = simulation.worker_seconds(
            simulation.Settings(
                gpus=n,
                batch=PAIRS,
                reads_all=True,
                decode_s=decode_s,
                read_s=read_s,
            )
        )
        yield harness.row(
            f'stage1-scaling data worker, {n} ranks',
            100 * abs(expected / best[n] - 1),
            '% error',
            at_most=LARGEST_ERROR,
            guard_ok=True,
            guard='predicted',
            measured=best[n],
            expected=expected,
            fitted=dict(decode_ms=1e3 * decode_s, read_ms=1e3 * read_s),
        )


def measure(repeats: int) -> Iterator[dict]:
    """Yield the rows."""
    sys.path.insert(0, str(ROOT / 'tools'))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(folder)
        yield from worker_rows(folder, repeats)
        for model in STEPS:
            if not (folder / f'stage1_{model}.py').exists():
                yield harness.skipped(
                    f'stage1-scaling {model}',
                    '% error',
                    f'{PHOTOS} names no folder of photographs',
                )
                continue
            cases = [case for case in CASES if case.model == model]
            yield from compare({case: run(case, folder) for case in cases})
