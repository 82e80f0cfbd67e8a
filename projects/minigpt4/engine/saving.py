# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Saving a checkpoint at once, outside of the regular interval."""

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
