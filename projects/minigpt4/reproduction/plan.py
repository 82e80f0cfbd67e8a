# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The trainings and tests of a reproduction, as steps.

A training is a config and the training whose checkpoint it starts from. The
name of its folder has a digest of its settings: a changed config gives a new
folder, and so do the trainings that start from it.
"""

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

from ..engine.cfg_options import merge_options, parse_options
from ..weights.model_hub import project_root, read_config
from .steps import Step

_TEST_KEYS = ('test_dataloader', 'test_evaluator')
_SHORTEST = 4  # iterations of a shortened training


class Training(NamedTuple):
    """One training; it runs once with each seed.

    Attributes:
        name: Its name in files and tables.
        config: A file of ``configs/minigpt4``.
        test: The config of its test.
        start: The training from whose last checkpoint it starts.
        settings: Changes of the config, ``KEY=VALUE``.
        features: The cache of image features that it reads; None where the
            vision modules are trained.
    """

    name: str
    config: str
    test: str
    start: str | None = None
    settings: tuple[str, ...] = ()
    features: str | None = 'queries'


class Setup(NamedTuple):
    """What a reproduction consists of.

    Attributes:
        data: Numbers of the data set, options of ``tools/nano_data.py``.
        features: The configs whose images a cache of features has.
        trainings: The trainings, each after the one that it starts from.
    """

    data: Mapping[str, int]
    features: Mapping[str, tuple[str, ...]]
    trainings: tuple[Training, ...]


class Run(NamedTuple):
    """One training with one seed; its files are in one folder.

    Attributes:
        training: The training.
        seed: Its seed.
        folder: Its work dir.
        iterations: Its number of iterations.
    """

    training: Training
    seed: int
    folder: Path
    iterations: int

    @property
    def checkpoint(self) -> Path:
        """The last checkpoint."""
        return self.folder / f'iter_{self.iterations}.pth'

    @property
    def scores(self) -> Path:
        """The scores of the test, JSON."""
        return self.folder / 'scores.json'

    @property
    def answers(self) -> Path:
        """The answers in the test, JSON Lines."""
        return self.folder / 'answers.jsonl'


CURVES = Path('curves.svg')
LENGTHS = (100, 200, 800, 1600)  # iterations of stage 2, next to its 400
SIZES = (35, 350)  # descriptions of stage 2, next to all


def _ablation(letter: str, features: str | None) -> tuple[Training, ...]:
    first, second = (f'stage{i}_nano_ablation_{letter}.py' for i in (1, 2))
    names = f'stage1_{letter}', f'stage2_{letter}'
    return (
        Training(names[0], first, second, features=features),
        Training(names[1], second, second, names[0], features=features),
    )


def _stage_2(name: str, *settings: str) -> Training:
    config = 'stage2_nano.py'
    return Training(name, config, config, 'stage1', settings)


def _other_config(name: str, config: str, start: str = 'stage1') -> Training:
    return Training(name, config, config, start)


NANO = Setup(
    data={
        '--pairs': 12000,
        '--descriptions': 3500,
        '--preferences': 1200,
        '--test-scenes': 500,
    },
    features={
        'queries': ('stage1_nano.py', 'stage2_nano.py', 'dpo_nano.py'),
        'patches': (
            'stage1_nano_ablation_a.py',
            'stage2_nano_ablation_a.py',
        ),
    },
    trainings=(
        Training('stage1', 'stage1_nano.py', 'stage2_nano.py'),
        _stage_2('stage2'),
        *_ablation('a', 'patches'),
        *_ablation('b', 'queries'),
        *_ablation('c', None),
        _other_config('finetune_vicuna', 'stage2_nano_finetune_vicuna.py'),
        _other_config('locna', 'stage2_nano_locna.py'),
        _other_config('dpo', 'dpo_nano.py', 'stage2'),
        *(
            _stage_2(
                f'stage2_{n}_iterations',
                f'max_iters={n}',
                f'param_scheduler.0.warmup={n // 10}',
            )
            for n in LENGTHS
        ),
        *(
            _stage_2(
                f'stage2_{n}_descriptions',
                f'train_dataloader.dataset.limit={n}',
            )
            for n in SIZES
        ),
    ),
)


def with_needed(
    trainings: Sequence[Training], names: Sequence[str]
) -> tuple[Training, ...]:
    """Keep the named trainings and those that they start from.

    Raises:
        ValueError: A name is unknown.
    """
    by_name = {training.name: training for training in trainings}
    kept = set()
    for name in names:
        if name not in by_name:
            raise ValueError(
                f'there is no training {name!r}; expected one of '
                f'{", ".join(by_name)}.'
            )
        current: str | None = name
        while current is not None:
            kept.add(current)
            current = by_name[current].start
    return tuple(t for t in trainings if t.name in kept)


class Plan:
    """The steps of a reproduction and its runs.

    All paths are relative to the folder in which the steps run.

    Args:
        setup: What is trained.
        seeds: The seeds.
        share: Share of the data and of the iterations, in (0, 1]; below 1
            to try the command.

    Attributes:
        digest: Digest of the data: of its numbers and of the code and the
            frozen weights of the nano model.
        steps: The steps, each after those that it needs.
        runs: The runs.
    """

    def __init__(
        self, setup: Setup, seeds: Sequence[int], share: float = 1.0
    ) -> None:
        self.steps: list[Step] = []
        self.runs: list[Run] = []
        numbers = {
            option: max(20, round(number * share))
            for option, number in setup.data.items()
        }
        self.digest = _digest(repr(numbers).encode(), *_nano_files())
        self._share = share
        words = [str(word) for item in numbers.items() for word in item]
        command = (*_tool('nano_data.py'), '--out', 'data/nano', *words)
        self.steps.append(Step('data', command, cost=0.5))
        used = {training.features for training in setup.trainings}
        ready = {
            name: self._add_features(name, configs)
            for name, configs in setup.features.items()
            if name in used
        }
        for seed in seeds:
            runs: dict[str, Run] = {}
            for training in setup.trainings:
                needs = [ready.get(training.features or '', 'data')]
                start = None
                if training.start is not None:
                    start = runs[training.start]
                    needs.append(_train_name(start))
                run = self._add_run(training, seed, start, needs)
                runs[training.name] = run
                self.runs.append(run)
        self._add_curves(self.runs[: len(setup.trainings)])

    def _add_features(self, name: str, configs: Sequence[str]) -> str:
        """Cache the features of the images of some configs, in turn."""
        last = 'data'
        for config in configs:
            step = f'features_{name}_{Path(config).stem}'
            command = (
                *_minigpt4('cache-features'),
                _config_file(config),
                *('-o', f'features/{name}'),
            )
            self.steps.append(Step(step, command, (last,)))
            last = step
        return last

    def _add_curves(self, runs: Sequence[Run]) -> None:
        """Draw the losses of all runs of the first seed."""
        folders = [str(run.folder) for run in runs]
        digest = _digest(*(folder.encode() for folder in folders))
        command = (*_tool('plot_log.py'), *folders, '-o', str(CURVES))
        needs = tuple(_train_name(run) for run in runs)
        self.steps.append(Step(f'curves_{digest}', command, needs, 0.3))

    def _add_run(
        self,
        training: Training,
        seed: int,
        start: Run | None,
        needs: Sequence[str],
    ) -> Run:
        settings = [*training.settings, f'randomness.seed={seed}']
        settings.append('randomness.deterministic=True')
        iterations = _config(training.config, training.settings).max_iters
        if self._share < 1:
            iterations = max(_SHORTEST, round(iterations * self._share))
            settings.append(f'max_iters={iterations}')
            settings.append('param_scheduler.0.warmup=1')
            settings.append('default_hooks.logger.interval=1')
        digest = _digest(
            read_settings(training.config, tuple(settings)),
            str(start and start.folder).encode(),
        )
        if start is not None:
            settings.append(f'load_from={start.checkpoint}')
        folder = Path('runs', f'{training.name}-seed{seed}-{digest}')
        run = Run(training, seed, folder, iterations)
        train = [*_tool('train.py'), _config_file(training.config), '--resume']
        train += ['--work-dir', str(folder)]
        if training.features is not None:
            train += ['--features', f'features/{training.features}']
        train += ['--cfg-options', *settings]
        test = [*_tool('test.py'), _config_file(training.test)]
        test += [str(run.checkpoint), '--work-dir', str(folder / 'test')]
        test += ['--out', str(run.scores), '--cfg-options']
        test.append(f'test_evaluator.answers_file={run.answers}')
        # a trained Q-Former needs the images: about three times the time
        cost = iterations / 800 * (1 if training.features else 3)
        self.steps += [
            Step(_train_name(run), tuple(train), tuple(needs), 0.3 + cost),
            Step(_test_name(run), tuple(test), (_train_name(run),)),
        ]
        return run


def _train_name(run: Run) -> str:
    return f'train_{run.folder.name}'


def _test_name(run: Run) -> str:
    """The name of a test, with a digest of what it depends on."""
    settings = json.loads(read_settings(run.training.test, ()))
    used = [settings[key] for key in ('model', *_TEST_KEYS)]
    digest = _digest(json.dumps(used).encode())
    return f'test_{run.folder.name}_{digest}'


def _tool(name: str) -> tuple[str, ...]:
    return sys.executable, str(project_root() / 'tools' / name)


def _minigpt4(verb: str) -> tuple[str, ...]:
    return sys.executable, '-m', 'minigpt4_cli.main', verb


def _config_file(name: str) -> str:
    return str(project_root() / 'configs' / 'minigpt4' / name)


@cache
def read_settings(name: str, settings: tuple[str, ...]) -> bytes:
    """All settings of a config, as JSON."""
    return json.dumps(_config(name, settings).to_dict(), default=str).encode()


def _config(name: str, settings: tuple[str, ...]) -> Config:
    cfg = read_config(_config_file(name))
    options: dict[str, Any] = parse_options(settings)
    merge_options(cfg, options)
    return cfg


def _nano_files() -> list[bytes]:
    """The code that makes the data, and the frozen weights."""
    folder = Path(__file__).parents[1] / 'nano'
    files = sorted(folder.glob('*.py'))
    files += sorted(
        path
        for path in (folder / 'weights').rglob('*')
        if path.is_file() and path.suffix != '.pth'
    )
    return [file.read_bytes() for file in files]


def _digest(*parts: bytes) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(len(part).to_bytes(8, 'big') + part)
    return found.hexdigest()[:8]
