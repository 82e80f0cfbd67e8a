# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Find the checkpoint that a run is resumed from, and validate its values.

Only the values that resuming needs are used, each of them validated. Strings
in a checkpoint, such as the config in ``meta``, are never parsed.
"""

import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, print_log
from torch import Tensor

from ..datasets.shard_positions import are_positions
from ..utils.errors import one_line
from ..weights.checkpoint_files import CheckpointError, read_checkpoint

_NUMBER_TYPES = (bool, int, float)


def list_checkpoints(work_dir: 'str | Path') -> Iterator[Path]:
    """Yield the checkpoints ``iter_N.pth`` of a folder, highest N first."""
    iterations = {
        path: int(match[1])
        for path in Path(work_dir).glob('iter_*.pth')
        if (match := re.fullmatch(r'iter_(\d+)\.pth', path.name))
    }
    yield from sorted(iterations, key=lambda path: -iterations[path])


def latest_checkpoint(work_dir: 'str | Path') -> str | None:
    """Return the checkpoint of a folder with the most iterations, or None.

    mmengine's file ``last_checkpoint`` is not used: it may be incomplete
    after a crash.
    """
    path = next(list_checkpoints(work_dir), None)
    return None if path is None else str(path)


def latest_resumable(work_dir: 'str | Path') -> str | None:
    """Return the newest checkpoint that a run can be resumed from.

    Newer ones that cannot are reported in warnings.

    Returns:
        Its path; None if the folder has no checkpoint.

    Raises:
        CheckpointError: It has checkpoints, but none can be resumed.
    """
    problems: list[str] = []
    for path in list_checkpoints(work_dir):
        try:
            resume_state(read_checkpoint(path), path)
        except (OSError, ValueError) as error:
            problems.append(one_line(error))
            print_log(
                f'not resumed: {problems[-1]}',
                logger='current',
                level=logging.WARNING,
            )
            continue
        if problems:
            print_log(
                f'resuming from {path} instead',
                logger='current',
                level=logging.WARNING,
            )
        return str(path)
    if problems:
        raise CheckpointError(
            f'none of the {len(problems)} checkpoints of {work_dir} can be '
            f'resumed; the newest: {problems[0]}'
        )
    return None


def resume_state(checkpoint: Mapping, path: 'str | Path') -> dict[str, Any]:
    """Extract and validate the values of a checkpoint that resuming needs.

    Args:
        checkpoint: The result of :func:`read_checkpoint`.
        path: Its file, for errors.

    Returns:
        ``epoch`` and ``iter`` (int), ``seed`` (int or None), ``state_dict``,
        ``optimizer``, ``param_schedulers`` (list), ``message_hub``, and, if
        the checkpoint has them, ``data`` and ``random``.

    Raises:
        CheckpointError: A value is missing or invalid.
    """

    def invalid(problem: str) -> CheckpointError:
        return CheckpointError(
            f'{path} cannot be resumed: {problem}; to start a new run from '
            'its weights use --cfg-options load_from=FILE.'
        )

    meta = checkpoint.get('meta')
    if not isinstance(meta, Mapping):
        raise invalid('it has no meta entry, which holds the iteration')
    step = meta.get('iter')
    if type(step) is not int or step < 0:
        raise invalid(f'its iteration is {step!r}, expected an integer >= 0')
    seed = meta.get('seed')
    if seed is not None and type(seed) is not int:
        raise invalid(f'its seed is {seed!r}, expected an integer')
    weights = checkpoint.get('state_dict')
    if not isinstance(weights, Mapping) or not weights:
        raise invalid('it has no weights (state_dict)')
    for name, tensor in weights.items():
        if not isinstance(tensor, Tensor):
            raise invalid(f'{name} is a {type(tensor).__name__}, not a tensor')
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise invalid(f'{name} holds values that are not finite')
    optimizer = checkpoint.get('optimizer')
    if not isinstance(optimizer, Mapping):
        raise invalid(
            'it has no optimizer state (saved with save_optimizer=False?)'
        )
    schedulers = checkpoint.get('param_schedulers', [])
    if not isinstance(schedulers, list) or not all(
        isinstance(state, Mapping) for state in schedulers
    ):
        raise invalid('its param_schedulers are not a list of dicts')
    for name in ('data', 'random'):
        if name in checkpoint and not isinstance(checkpoint[name], Mapping):
            raise invalid(f'its entry {name} is not a dict')
    data = checkpoint.get('data', {})
    positions = data.get('positions')
    if positions is not None and not are_positions(positions):
        raise invalid('its data positions are not valid')
    shards = data.get('shards', {})
    if not isinstance(shards, Mapping) or not all(
        type(number) is int for number in shards.values()
    ):
        raise invalid('its numbers of shards are not valid')
    for name in ('samples', 'batch', 'streams'):
        number = data.get(name)
        if number is not None and (type(number) is not int or number < 0):
            raise invalid(
                f'its number of {name} is {number!r:.40}, expected an '
                'integer >= 0'
            )
    return dict(
        epoch=meta.get('epoch') if type(meta.get('epoch')) is int else 0,
        iter=step,
        seed=seed,
        state_dict=weights,
        optimizer=optimizer,
        param_schedulers=schedulers,
        message_hub=_safe_history(checkpoint.get('message_hub')),
        **{k: checkpoint[k] for k in ('data', 'random') if k in checkpoint},
    )


def _safe_history(hub: object) -> dict[str, dict]:
    """Copy the log history without values that mmengine would act on.

    Of ``runtime_info`` only the numbers of saved checkpoints and the best
    scores are copied: mmengine deletes files that other entries name.
    Histories are rebuilt from their numbers, because a pickled one may have
    its own methods.
    """
    hub = hub if isinstance(hub, Mapping) else {}
    scalars = {}
    for name, history in _items(hub.get('log_scalars')):
        rebuilt = _rebuilt_history(history)
        if rebuilt is not None:
            scalars[name] = rebuilt
    info = {}
    for name, value in _items(hub.get('runtime_info')):
        if name == 'keep_ckpt_ids' and isinstance(value, list):
            info[name] = [number for number in value if type(number) is int]
        elif name.startswith('best_score') and type(value) in (int, float):
            info[name] = value
    return dict(
        log_scalars=scalars,
        runtime_info=info,
        resumed_keys=dict.fromkeys([*scalars, *info], True),
    )


def _items(value: object) -> list[tuple[str, Any]]:
    """List the items of a mapping whose keys are strings."""
    entries = value.items() if isinstance(value, Mapping) else ()
    return [(name, item) for name, item in entries if isinstance(name, str)]


def _rebuilt_history(history: object) -> HistoryBuffer | None:
    """Rebuild a history from its numbers; None if they are invalid."""
    if not isinstance(history, HistoryBuffer):
        return None
    values = vars(history).get('_log_history')
    counts = vars(history).get('_count_history')
    for array in (values, counts):
        if not isinstance(array, np.ndarray) or array.ndim != 1:
            return None
        if not np.issubdtype(array.dtype, np.number):
            return None
    if len(values) != len(counts):
        return None
    return HistoryBuffer(values, counts)


def check_optimizer(
    state: Mapping, optimizer: torch.optim.Optimizer, path: 'str | Path'
) -> None:
    """Check that a saved state fits an optimizer.

    torch checks neither shapes nor settings: a wrong shape would fail in the
    first step, and a wrong setting would change the training.

    Args:
        state: The saved state of an optimizer (wrapper).
        optimizer: The optimizer.
        path: The checkpoint, for errors.

    Raises:
        CheckpointError: The state does not fit this optimizer.
    """

    def invalid(problem: str) -> CheckpointError:
        return CheckpointError(
            f'{path} cannot be resumed: {problem}; it belongs to another '
            'optimizer or another model, or is damaged.'
        )

    groups, saved = optimizer.param_groups, state.get('param_groups')
    values = state.get('state')
    if not isinstance(saved, list) or not isinstance(values, Mapping):
        raise invalid('its optimizer state lacks param_groups or state')
    sizes = [len(group['params']) for group in groups]
    saved_sizes = [
        len(group['params'])
        if isinstance(group, Mapping) and isinstance(group.get('params'), list)
        else None
        for group in saved
    ]
    if saved_sizes != sizes:
        raise invalid(
            f'its optimizer has groups of {saved_sizes} parameters, the '
            f'config makes {sizes}'
        )
    for saved_group, group in zip(saved, groups, strict=True):
        for name, value in saved_group.items():
            # initial_lr is added by schedulers
            if name not in group and name != 'initial_lr':
                raise invalid(f'its optimizer has a setting {name!r}')
            if name != 'params' and not _is_setting(value):
                raise invalid(f'its optimizer setting {name} is {value!r:.40}')
    parameters = [p for group in groups for p in group['params']]
    numbers = [n for group in saved for n in group['params']]
    for number, parameter in zip(numbers, parameters, strict=True):
        entry = values.get(number, {})
        if not isinstance(entry, Mapping):
            raise invalid(f'the state of parameter {number!r} is not a dict')
        for name, value in entry.items():
            if isinstance(value, Tensor):
                if value.dim() and value.shape != parameter.shape:
                    raise invalid(
                        f'{name} of parameter {number} is '
                        f'{tuple(value.shape)}, expected '
                        f'{tuple(parameter.shape)}'
                    )
                if value.is_floating_point() and not value.isfinite().all():
                    raise invalid(
                        f'{name} of parameter {number} is not finite'
                    )
            elif not _is_setting(value):
                raise invalid(f'{name} of parameter {number} is not a number')


def _is_setting(value: object) -> bool:
    """Whether this is a number, a flag, None, or a tuple of numbers."""
    if isinstance(value, (list, tuple)):
        return all(type(item) in _NUMBER_TYPES for item in value)
    if isinstance(value, Tensor):
        return value.numel() == 1
    return value is None or type(value) in _NUMBER_TYPES


def load_scheduler(scheduler: Any, state: Mapping, path: 'str | Path') -> None:
    """Restore the numbers of a parameter scheduler.

    mmengine sets every entry of the state as an attribute. Here only numbers
    and lists of numbers that the scheduler already has are restored.

    Raises:
        CheckpointError: The state does not fit this scheduler.
    """
    attributes = vars(scheduler)
    numbers = {
        name: value
        for name, value in state.items()
        if name in attributes
        and type(attributes[name]) in (int, float, list)
        and _is_setting(value)
        and (type(attributes[name]) is list)
        == isinstance(value, (list, tuple))
    }
    step = numbers.get('last_step')
    if type(step) is not int or step < -1:  # -1: before its first step
        raise CheckpointError(
            f'{path} cannot be resumed: the state of its learning-rate '
            'schedule has no valid last_step.'
        )
    attributes.update(numbers)
