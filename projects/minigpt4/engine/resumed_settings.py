# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Which settings a resumed run has: those of its config, with a warning.

torch and mmengine restore the settings of the optimizer and the schedules
with their state, so that a changed config would be ignored. Here the state is
restored, and a setting that differs keeps the value of the config.
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.optim.scheduler.param_scheduler import (
    ReduceOnPlateauParamScheduler,
)
from torch import Tensor

from ..weights.checkpoint_files import CheckpointError
from .checkpoints import load_scheduler

# what a scheduler has besides its settings
_PROGRESS = ('last_step', '_global_step', '_last_value')
_NO_SETTINGS = (*_PROGRESS, 'optimizer', 'verbose', 'base_values')
_COMPARED = (bool, int, float, str, tuple, list, dict, type(None))

Groups = list[dict[str, Any]]


def settings_of(optimizer: Any) -> Groups:
    """The settings of each group of an optimizer, without its parameters."""
    return [
        {name: value for name, value in group.items() if name != 'params'}
        for group in optimizer.param_groups
    ]


def restore_settings(optimizer: Any, wanted: Groups) -> list[str]:
    """Give an optimizer whose state was loaded the settings of the config.

    The present value of what a schedule changes, e.g. ``lr``, stays as it was
    loaded; its initial value is that of the config.

    Args:
        optimizer: The optimizer, with a loaded state; changed.
        wanted: Its settings before that, from :func:`settings_of`.

    Returns:
        Each setting that differs, as ``NAME OLD -> NEW``, without repeats.
    """
    changes: dict[str, None] = {}
    for group, settings in zip(optimizer.param_groups, wanted, strict=True):
        scheduled = _scheduled(settings)
        for name, value in settings.items():
            if name in scheduled:
                continue
            known = name in group
            old, group[name] = group.get(name), value
            if known and not _same(old, value):
                shown = name.removeprefix('initial_')
                changes[f'{shown} {_show(old)} -> {_show(value)}'] = None
    return list(changes)


def restore_schedules(
    schedulers: Sequence[Any],
    states: Sequence[Mapping],
    optimizer: Any,
    wanted: Groups,
    step: int,
    path: 'str | Path',
) -> list[str]:
    """Restore schedules; with changed settings, as if they had always been.

    Where a setting differs, the steps of the run are counted again with the
    settings of the config, so that the rate is that of a run which had them
    from its beginning.

    Args:
        schedulers: The schedules of the config, at their beginning; changed.
        states: Their saved states.
        optimizer: The optimizer with its loaded state; changed.
        wanted: Its settings at the beginning, from :func:`settings_of`.
        step: Iterations done.
        path: The checkpoint, for errors.

    Returns:
        Each setting that differs, as ``NAME OLD -> NEW``.

    Raises:
        CheckpointError: The states are not of these schedules, or a schedule
            that depends on scores has changed.
    """
    if len(states) != len(schedulers):
        raise CheckpointError(
            f'{path} cannot be resumed: it has the state of {len(states)} '
            f'learning-rate schedules, the config has {len(schedulers)}; set '
            'param_scheduler as it was, or start a new run with load_from.'
        )
    changes: list[str] = []
    moved = False
    for scheduler, state in zip(schedulers, states, strict=True):
        own = vars(scheduler)
        moved |= not _same(state.get('base_values'), own['base_values'])
        for name, value in own.items():
            if name in _NO_SETTINGS or name not in state:
                continue
            if isinstance(value, _COMPARED) and not _same(state[name], value):
                changes.append(
                    f'{type(scheduler).__name__}.{name} {_show(state[name])} '
                    f'-> {_show(value)}'
                )
    if not (changes or moved):
        for scheduler, state in zip(schedulers, states, strict=True):
            load_scheduler(scheduler, state, path)
        return changes
    steps = [_steps_of(state, step, path) for state in states]
    if any(isinstance(s, ReduceOnPlateauParamScheduler) for s in schedulers):
        raise CheckpointError(
            f'{path} cannot be resumed with other settings '
            f'({", ".join(changes) or "of the optimizer"}): its schedule '
            'depends on scores; set them as they were.'
        )
    for group, settings in zip(optimizer.param_groups, wanted, strict=True):
        for name in _scheduled(settings):
            group[name] = settings[name]
    with warnings.catch_warnings():  # no step of the optimizer is between
        warnings.simplefilter('ignore', UserWarning)
        for number in range(max(steps)):
            for scheduler, own_steps in zip(schedulers, steps, strict=True):
                if number < own_steps:
                    scheduler.step()
    return changes


def _steps_of(state: Mapping, limit: int, path: 'str | Path') -> int:
    """How often a saved schedule has stepped; it steps once an iteration."""
    last = state.get('last_step')
    steps = state.get('_global_step', last)
    # the last step of a schedule that has not begun is -1
    for name, number, least in (
        ('last_step', last, -1),
        ('number of steps', steps, 0),
    ):
        if type(number) is not int or not least <= number <= limit:
            raise CheckpointError(
                f'{path} cannot be resumed: the state of its learning-rate '
                f'schedule has no valid {name}: {number!r:.40}, expected '
                f'{least} to {limit}.'
            )
    return steps


def _scheduled(settings: Mapping) -> set[str]:
    """The settings of a group that a schedule changes."""
    names = {
        name.removeprefix('initial_')
        for name in settings
        if name.startswith('initial_')
    }
    if 'momentum' in names and 'betas' in settings:
        names.add('betas')  # mmengine writes the momentum into them
    return names


def _plain(value: object) -> object:
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _same(one: object, other: object) -> bool:
    one, other = _plain(one), _plain(other)
    if not (isinstance(one, _COMPARED) and isinstance(other, _COMPARED)):
        return False
    return one == other


def _show(value: object) -> str:
    return f'{_plain(value)!r:.60}'
