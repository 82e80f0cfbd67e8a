# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The trainings and tests of a reproduction, as steps.

A training is a config and the training whose checkpoint it starts from. The
name of its folder has a digest of its settings: a changed config gives a new
folder, and so do the trainings that start from it. Caches of features and
results of tests have a digest of what they depend on in the same way.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

from ..engine.cfg_options import merge_options, parse_options
from ..engine.config import require_training
from ..weights.model_hub import read_config
from .commands import (
    arguments,
    config_file,
    copied_config,
    minigpt4,
    tool,
)
from .config_checks import check_checkpoint_fits, check_packages
from .setups import Curve, Part, Setup, Target, Test, Training
from .steps import Step

_VISION_KEYS = ('backbone', 'neck', 'data_preprocessor')
_TEST_KEYS = ('model', 'test_dataloader', 'test_evaluator')
_SHORTEST = 4  # iterations of a shortened training
_START_COST = 0.1  # of a step, before its first iteration or image
_LIMIT = 'train_dataloader.dataset.limit='


class Run(NamedTuple):
    """One training with one seed; its files are in one folder.

    Attributes:
        training: The training.
        seed: Its seed.
        folder: Its work dir.
        iterations: Its number of iterations.
        results: The folder of the results of each test by name.
    """

    training: Training
    seed: int
    folder: Path
    iterations: int
    results: Mapping[str, Path]

    @property
    def checkpoint(self) -> Path:
        """The last checkpoint."""
        return self.folder / f'iter_{self.iterations}.pth'

    def test_step(self, name: str) -> str:
        """The name of the step of a test."""
        digest = self.results[name].name.removeprefix(f'{name}-')
        return f'test_{self.folder.name}_{name}_{digest}'


class Plan:
    """The steps of a reproduction and its runs.

    All paths are relative to the folder in which the steps run.

    Args:
        setup: What is trained.
        seeds: The seeds.
        share: Share of the data and of the iterations, in (0, 1]; below 1
            to try the command.

    Attributes:
        digest: Digest of the data: of the commands that make them, and of
            what they depend on.
        setup: What is trained, with the numbers of all labels.
        data: The steps that make the data.
        steps: The steps, each after those that it needs.
        runs: The runs.
        curves: The file of the loss curves, SVG.

    Raises:
        ValueError: A config cannot be trained.
        ImportError: A config needs a package that is not installed.
    """

    def __init__(
        self, setup: Setup, seeds: Sequence[int], share: float = 1.0
    ) -> None:
        _check(setup.trainings)
        self.setup = _with_iterations(setup)
        self._share = share
        self._limit: tuple[str, ...] = ()
        if share < 1 and setup.limit is not None:
            limit = setup.limit(share)
            self._limit = (f'{_LIMIT}{limit}',)
        self.steps: list[Step] = [*setup.data(share)]
        self.runs: list[Run] = []
        self.digest = _digest(
            *(repr(arguments(step.command)).encode() for step in self.steps),
            *setup.sources(),
        )
        self.data = tuple(self.steps)
        self._data = tuple(step.name for step in self.data)
        # folder of the features of each training, and the step that makes it
        self._features: dict[str, tuple[str, str]] = {}
        self._add_features()
        made = {training.part for training in setup.trainings}
        self._parts = {
            name: self._add_part(name, part)
            for name, part in setup.parts.items()
            if name in made
        }
        for seed in seeds:
            runs: dict[str, Run] = {}
            for training in setup.trainings:
                start = runs[training.start] if training.start else None
                run = self._add_run(training, seed, start)
                runs[training.name] = run
                self.runs.append(run)
        self.curves = self._add_curves(self.runs[: len(setup.trainings)])

    def _add_features(self) -> None:
        """Cache the features of the images of each config.

        Those of other images are added to the folder, one step after the
        other, while trainings may read it.
        """
        made: dict[tuple[str, str], str] = {}
        last: dict[str, str] = {}
        for training in self.setup.trainings:
            folder = _features_folder(training)
            if training.features is None or not folder:
                continue
            options = self._limit or _own_limit(training)
            settings = read_settings(training.config, options)
            digest = _digest(json.dumps(_datasets(settings)).encode())
            if (folder, digest) not in made:
                stem = Path(training.config).stem
                step = f'features_{Path(folder).name}_{stem}_{digest}'
                config = copied_config(training.config)
                command = minigpt4('cache-features', config, '-o', folder)
                if options:
                    command += '--cfg-options', *options
                needs = self._data
                if folder in last:
                    needs += (last[folder],)
                cost = self.setup.features[training.features]
                cost = _START_COST + cost * self._share
                self.steps.append(Step(step, command, needs, cost, (folder,)))
                made[folder, digest] = last[folder] = step
            self._features[training.name] = folder, made[folder, digest]

    def _add_part(self, name: str, part: Part) -> str:
        """Make a frozen part; returns the name of the step."""
        command = part.command(self._share)
        digest = _digest(repr(arguments(command)).encode())
        step = f'part_{name}_{digest}'
        cost = _START_COST + part.cost * self._share
        self.steps.append(Step(step, command, (), cost, part.outputs))
        return step

    def _add_curves(self, runs: Sequence[Run]) -> Path:
        """Draw the losses of the runs of the first seed that have a log."""
        folders = [str(run.folder) for run in runs]
        name = f'curves_{_digest(*(folder.encode() for folder in folders))}'
        file = f'{name}.svg'
        command = tool('plot_log.py', *folders, '-o', file, '--skip')
        needs = tuple(_train_name(run) for run in runs)
        step = Step(
            name, command, needs, _START_COST, (file,), needs_all=False
        )
        self.steps.append(step)
        return Path(file)

    def _add_run(
        self, training: Training, seed: int, start: Run | None
    ) -> Run:
        """Add the steps of a training and of its tests."""
        settings = [*training.settings, f'randomness.seed={seed}']
        settings.append('randomness.deterministic=True')
        cfg = _config(training.config, training.settings)
        iterations = cfg.max_iters
        if self._share < 1:
            iterations = max(_SHORTEST, round(iterations * self._share))
            settings.append(f'max_iters={iterations}')
            settings += _shorter_warmup(cfg, self._share)
            settings.append('default_hooks.logger.interval=1')
            settings += _smallest_limit(*settings, *self._limit)
        digest = _digest(
            _training_settings(training.config, tuple(settings)),
            str(start and start.folder).encode(),
            self._parts.get(training.part or '', '').encode(),
        )
        folder = Path('runs', f'{training.name}-seed{seed}-{digest}')
        digests = {
            test.name: self._test_digest(training, test)
            for test in self.setup.tests
        }
        results = {
            name: folder / f'{name}-{digest}'
            for name, digest in digests.items()
        }
        run = Run(training, seed, folder, iterations, results)
        if start is not None:
            settings.append(f'load_from={start.checkpoint}')
        self._add_training(run, settings, start)
        for test in self.setup.tests:
            target = Target(
                copied_config(training.test),
                str(run.checkpoint),
                str(results[test.name]),
                self._share,
            )
            needs = (*self._inputs(training), _train_name(run))
            command = test.command(target)
            cost = _START_COST + test.cost * self._share
            made = results[test.name]
            step = Step(
                *(run.test_step(test.name), command, needs, cost),
                outputs=(str(made),),
                check=partial(_incomplete, test, made),
                begins_after=_train_name(run),
            )
            self.steps.append(step)
        return run

    def _inputs(self, training: Training) -> tuple[str, ...]:
        """The steps whose files a training and its tests read."""
        if training.part is None:
            return self._data
        return *self._data, self._parts[training.part]

    def _add_training(
        self, run: Run, settings: Sequence[str], start: Run | None
    ) -> None:
        training = run.training
        command = tool('train.py', copied_config(training.config), '--resume')
        command += '--work-dir', str(run.folder)
        needs = self._inputs(training)
        if training.name in self._features:
            features, step = self._features[training.name]
            command += '--features', features
            needs += (step,)
        command += '--cfg-options', *settings
        if start is not None:
            needs += (_train_name(start),)
        cost = _START_COST + run.iterations * training.cost
        outputs = (str(run.checkpoint),)
        self.steps.append(
            Step(_train_name(run), command, needs, cost, outputs)
        )

    def _test_digest(self, training: Training, test: Test) -> str:
        """A digest of what a test depends on, next to the checkpoint."""
        settings = json.loads(read_settings(training.test, ()))
        used = [settings.get(key) for key in _TEST_KEYS]
        command = test.command(Target('', '', '', self._share))
        words = repr(arguments(command))
        return _digest(json.dumps(used).encode(), words.encode())


def _check(trainings: Sequence[Training]) -> None:
    """Check the configs of some trainings, and that they fit each other."""
    by_name = {training.name: training for training in trainings}
    for training in trainings:
        require_training(_config(training.config, training.settings))
        model = _model(training.config, training.settings)
        check_packages(training.name, model)
        file = config_file(training.config)
        check_checkpoint_fits(
            *(file, model, config_file(training.test), _model(training.test))
        )
        if training.start:
            start = by_name[training.start]
            written = _model(start.config, start.settings)
            check_checkpoint_fits(
                *(config_file(start.config), written, file, model)
            )


def _model(name: str, settings: tuple[str, ...] = ()) -> dict[str, Any]:
    """The settings of the model of a config."""
    return json.loads(read_settings(name, settings)).get('model') or {}


def _with_iterations(setup: Setup) -> Setup:
    """Replace each label that is None by the iterations of the config."""
    trainings = {training.name: training for training in setup.trainings}

    def complete(curve: Curve) -> Curve:
        if None not in curve.labels.values():
            return curve
        labels = {}
        for name, label in curve.labels.items():
            if label is None and name in trainings:
                own = trainings[name]
                label = str(_config(own.config, own.settings).max_iters)
            if label is not None:
                labels[name] = label
        ordered = sorted(labels.items(), key=lambda item: int(item[1]))
        return curve._replace(labels=dict(ordered))

    return setup._replace(curves=tuple(map(complete, setup.curves)))


def _shorter_warmup(cfg: Config, share: float) -> list[str]:
    """The setting of a shorter warmup, where the config has one."""
    schedules = cfg.get('param_scheduler')
    first = schedules[0] if isinstance(schedules, list) and schedules else {}
    if 'warmup' not in first:
        return []
    warmup = max(1, round(first['warmup'] * share))
    return [f'param_scheduler.0.warmup={warmup}']


def _own_limit(training: Training) -> tuple[str, ...]:
    """The limit of a training where its config has another one.

    Without a limit in the config, all images have features anyway.
    """
    settings = json.loads(read_settings(training.config, ()))
    if settings['train_dataloader']['dataset'].get('limit') is None:
        return ()
    return tuple(s for s in training.settings if s.startswith(_LIMIT))


def _training_settings(name: str, settings: tuple[str, ...]) -> bytes:
    """The settings of a config on which its training depends."""
    found = json.loads(read_settings(name, settings))
    kept = {k: v for k, v in found.items() if not k.startswith('test_')}
    return json.dumps(kept).encode()


def _smallest_limit(*settings: str) -> list[str]:
    """The smallest of the limits of the data among some settings."""
    found = [s.removeprefix(_LIMIT) for s in settings if s.startswith(_LIMIT)]
    return [f'{_LIMIT}{min(map(int, found))}'] if found else []


def _incomplete(test: Test, results: Path, folder: Path) -> str:
    """What the results of a test lack; '' if nothing.

    Scores of a part of the records are not those of the others.
    """
    try:
        scored, total = test.counts(folder, folder / results)
    except FileNotFoundError:
        return ''  # its own error is in the log
    except (
        *(OSError, ValueError, LookupError, TypeError, AttributeError),
    ) as error:
        return (
            f'{results} cannot be read ({str(error).rstrip(".")}); it was '
            'removed, give the same command again'
        )
    if scored >= total:
        return ''
    return (
        f'{scored:,} of {total:,} records were scored, expected all; repair '
        'or delete the images that the log names as skipped, and give the '
        'same command again'
    )


def _features_folder(training: Training) -> str:
    """The folder of the cached features of a training; '' if it has none.

    Its name has a digest of what changes the features of an image. Trained
    vision modules have no features to cache.
    """
    settings = json.loads(read_settings(training.config, ()))
    vision = [settings['model'].get(key) or {} for key in _VISION_KEYS]
    trained = any(module.get('frozen') is False for module in vision)
    if training.features is None or trained:
        return ''
    loading = _loaders(settings['train_dataloader'])
    digest = _digest(json.dumps([vision, loading]).encode())
    return f'features/{training.features}-{digest}'


def _loaders(settings: Any) -> list[Any]:
    """How images are loaded: each ``LoadImages`` in some settings, once."""
    found = []
    if isinstance(settings, dict):
        if str(settings.get('type')).rpartition('.')[2] == 'LoadImages':
            return [settings]
        settings = [*settings.values()]
    if isinstance(settings, list):
        for inner in settings:
            found += [x for x in _loaders(inner) if x not in found]
    return found


def _datasets(settings: bytes) -> list[Any]:
    """The settings of all data sets whose images a training reads."""
    found = json.loads(settings)
    default, custom = found.get('default_hooks'), found.get('custom_hooks')
    hooks = *(default or {}).values(), *(custom or ())
    return [
        found['train_dataloader']['dataset'],
        (found.get('val_dataloader') or {}).get('dataset'),
        [hook['dataset'] for hook in hooks if hook and hook.get('dataset')],
    ]


def _train_name(run: Run) -> str:
    return f'train_{run.folder.name}'


@cache
def read_settings(name: str, settings: tuple[str, ...]) -> bytes:
    """All settings of a config, as JSON."""
    found = _config(name, settings).to_dict()
    return json.dumps(found, default=_as_json).encode()


def _as_json(value: object) -> Any:
    """A value of a config that JSON does not have.

    The order of a set and addresses differ in each process.
    """
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    return re.sub(r' at 0x[0-9a-f]+', '', str(value))


def _config(name: str, settings: tuple[str, ...]) -> Config:
    cfg = read_config(config_file(name))
    options: dict[str, Any] = parse_options(settings)
    try:
        merge_options(cfg, options)
    except ValueError as error:
        raise ValueError(f'{config_file(name)}: {error}') from error
    return cfg


def _digest(*parts: bytes) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(len(part).to_bytes(8, 'big') + part)
    return found.hexdigest()[:8]
