# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Checkpoints outside of the regular interval: at once, and the best one."""

import re
from pathlib import Path

from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner


def save_now(runner: Runner) -> str:
    """Save a checkpoint that a run can be resumed from.

    All ranks call it after the hooks of a step. It counts as one of the
    ``max_keep_ckpts`` checkpoints that are kept, and holds the optimizer's
    state also where the regular ones do not.

    Returns:
        The path of the checkpoint, which may be there already.
    """
    hook = next(
        (hook for hook in runner.hooks if isinstance(hook, CheckpointHook)),
        None,
    )
    if hook is None or hook.by_epoch:
        name = f'iter_{runner.iter + 1}.pth'
        runner.save_checkpoint(
            runner.work_dir,
            name,
            by_epoch=False,
            backend_args=dict(backend='atomic'),
        )
        return str(Path(runner.work_dir) / name)
    name = hook.filename_tmpl.format(runner.iter + 1)
    complete = hook.save_optimizer and hook.save_param_scheduler
    if not complete or Path(str(hook.last_ckpt)).name != name:
        kept = hook.save_optimizer, hook.save_param_scheduler
        hook.save_optimizer = hook.save_param_scheduler = True
        try:
            hook._save_checkpoint(runner)
        finally:
            hook.save_optimizer, hook.save_param_scheduler = kept
    return str(hook.last_ckpt)


def find_best(runner: Runner) -> None:
    """Let a resumed run know the best checkpoint before it.

    mmengine takes its path from the resumed checkpoint and removes it when a
    better one is saved. Here no file name of a checkpoint is used: the best
    is the file ``best_*_iter_N.pth`` of the run's own folder with the highest
    N that the run had done.
    """
    hub = runner.message_hub
    for hook in runner.hooks:
        if not isinstance(hook, CheckpointHook) or not hook.save_best:
            continue
        folder = Path(runner.work_dir)
        if hook.out_dir is not None:  # as the hook does before the training
            folder = Path(hook.out_dir) / folder.name
        names = hook.key_indicators
        for name in names:
            key = 'best' if len(names) == 1 else f'best_{name}'
            score = key.replace('best', 'best_score', 1)
            if score not in hub.runtime_info:
                continue
            metric = '.+' if name == 'auto' else re.escape(name)
            metric = metric.replace('/', '_')
            found = {
                int(match[1]): path
                for path in folder.glob('best_*.pth')
                if (
                    match := re.fullmatch(
                        rf'best_{metric}_iter_(\d+)\.pth', path.name
                    )
                )
            }
            steps = [step for step in found if step <= runner.iter]
            if steps:
                path = str(found[max(steps)])
                hub.update_info(key.replace('best', 'best_ckpt', 1), path)
