# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Keep the settings of the config when the state of a run is restored.

torch and mmengine restore settings of the optimizer and the schedules with
their state, so that a changed config would be ignored. Here only the state
is restored; a setting that differs keeps the value of the config.
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
from .resume_checks import load_scheduler

# attributes of a scheduler that are state, not settings
_STATE = ('last_step', '_global_step', '_last_value')
_NOT_SETTINGS = (*_STATE, 'optimizer', 'verbose', 'base_values')
_COMPARABLE = (bool, int, float, str, tuple, list, dict, type(None))

Groups = list[dict[str, Any]]


def read_settings(optimizer: Any) -> Groups:
    """Copy the settings of each parameter group of an optimizer."""
    return [
        {name: value for name, value in group.items() if name != 'params'}
        for group in optimizer.param_groups
    ]


def restore_settings(optimizer: Any, configured: Groups) -> list[str]:
    """Reset an optimizer with a loaded state to the settings of the config.

    The current value of a setting that a schedule changes, e.g. ``lr``, stays
    as it was loaded; its initial value is that of the config.

    Args:
        optimizer: The optimizer, with a loaded state; changed.
        configured: Its settings before that, from :func:`read_settings`.

    Returns:
        Each setting that differs, as ``NAME OLD -> NEW``, without repeats.
    """
    changes: dict[str, None] = {}
    groups = zip(optimizer.param_groups, configured, strict=True)
    for group, settings in groups:
        scheduled = _scheduled_settings(settings)
        for name, value in settings.items():
            if name in scheduled:
                continue
            was_saved = name in group
            old, group[name] = group.get(name), value
            if was_saved and not _equal(old, value):
                change = f'{_format(old)} -> {_format(value)}'
                changes[f'{name.removeprefix("initial_")} {change}'] = None
    return list(changes)


def restore_schedules(
    schedulers: Sequence[Any],
    states: Sequence[Mapping],
    optimizer: Any,
    configured: Groups,
    step: int,
    path: 'str | Path',
) -> list[str]:
    """Restore the state of the learning rate schedules.

    If a setting differs, all steps of the run are replayed with the settings
    of the config, so that the rate is that of a run that had them from its
    start.

    Args:
        schedulers: The schedules of the config before their first step;
            changed.
        states: Their saved states.
        optimizer: The optimizer with its loaded state; changed.
        configured: Its settings before that, from :func:`read_settings`.
        step: Number of iterations done.
        path: The checkpoint, for errors.

    Returns:
        Each setting that differs, as ``NAME OLD -> NEW``.

    Raises:
        CheckpointError: The states do not fit these schedules, or a schedule
            that depends on scores has changed.
    """
    if len(states) != len(schedulers):
        raise CheckpointError(
            f'{path} cannot be resumed: it has the state of {len(states)} '
            f'learning-rate schedules, the config has {len(schedulers)}; set '
            'param_scheduler as it was, or start a new run with load_from.'
        )
    changes: list[str] = []
    base_changed = False
    for scheduler, state in zip(schedulers, states, strict=True):
        attributes = vars(scheduler)
        base_changed |= not _equal(
            state.get('base_values'), attributes['base_values']
        )
        for name, value in attributes.items():
            if name in _NOT_SETTINGS or name not in state:
                continue
            comparable = isinstance(value, _COMPARABLE)
            if comparable and not _equal(state[name], value):
                changes.append(
                    f'{type(scheduler).__name__}.{name} '
                    f'{_format(state[name])} -> {_format(value)}'
                )
    if not (changes or base_changed):
        for scheduler, state in zip(schedulers, states, strict=True):
            load_scheduler(scheduler, state, path)
        return changes
    steps = [_number_of_steps(state, step, path) for state in states]
    if any(isinstance(s, ReduceOnPlateauParamScheduler) for s in schedulers):
        raise CheckpointError(
            f'{path} cannot be resumed with other settings '
            f'({", ".join(changes) or "of the optimizer"}): its schedule '
            'depends on scores; set them as they were.'
        )
    for group, settings in zip(
        optimizer.param_groups, configured, strict=True
    ):
        for name in _scheduled_settings(settings):
            group[name] = settings[name]
    # torch warns of a schedule that steps without its optimizer
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', UserWarning)
        for number in range(max(steps)):
            for scheduler, count in zip(schedulers, steps, strict=True):
                if number < count:
                    scheduler.step()
    return changes


def _number_of_steps(state: Mapping, limit: int, path: 'str | Path') -> int:
    """Return the number of steps of a saved schedule, one per iteration."""
    last = state.get('last_step')
    steps = state.get('_global_step', last)
    # last_step is -1 before the first step
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


def _scheduled_settings(settings: Mapping) -> set[str]:
    """Return the settings of a group that a schedule changes."""
    names = {
        name.removeprefix('initial_')
        for name in settings
        if name.startswith('initial_')
    }
    if 'momentum' in names and 'betas' in settings:
        names.add('betas')  # mmengine stores the momentum there
    return names


def _plain(value: object) -> object:
    """Convert tensors, also in lists, to numbers."""
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _equal(first: object, second: object) -> bool:
    first, second = _plain(first), _plain(second)
    if not isinstance(first, _COMPARABLE):
        return False
    return isinstance(second, _COMPARABLE) and first == second


def _format(value: object) -> str:
    return f'{_plain(value)!r:.60}'
