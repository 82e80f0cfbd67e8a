# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Save checkpoints atomically, on request, and find the best one."""

import re
from pathlib import Path

from mmengine.fileio import register_backend
from mmengine.fileio.backends import LocalBackend
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from ..utils.atomic import write_atomically


class AtomicBackend(LocalBackend):
    """mmengine's local file backend with atomic writes.

    Selected by ``backend_args=dict(backend='atomic')``.
    """

    def put(self, obj: bytes, filepath: 'str | Path') -> None:
        """Write bytes to a file atomically."""
        write_atomically(filepath, obj)

    def put_text(
        self, obj: str, filepath: 'str | Path', encoding: str = 'utf-8'
    ) -> None:
        """Write text to a file atomically."""
        write_atomically(filepath, obj.encode(encoding))


register_backend('atomic', AtomicBackend, force=True)


def save_now(runner: Runner) -> str:
    """Save a checkpoint that the run can be resumed from.

    All ranks call this after the hooks of a step. The checkpoint counts as
    one of the ``max_keep_ckpts`` regular checkpoints, and has the optimizer
    state even if the regular ones have not.

    Returns:
        The path of the checkpoint, which may have existed before.
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
    is_complete = hook.save_optimizer and hook.save_param_scheduler
    if not is_complete or Path(str(hook.last_ckpt)).name != name:
        configured = hook.save_optimizer, hook.save_param_scheduler
        hook.save_optimizer = hook.save_param_scheduler = True
        try:
            hook._save_checkpoint(runner)
        finally:
            hook.save_optimizer, hook.save_param_scheduler = configured
    return str(hook.last_ckpt)


def restore_best_checkpoint(runner: Runner) -> None:
    """Tell the CheckpointHook of a resumed run its best checkpoint so far.

    mmengine takes the path from the resumed checkpoint, and removes that file
    when a better checkpoint is saved. Here no file name in a checkpoint is
    used: the best one is the file ``best_*_iter_N.pth`` in the work dir of
    the run with the highest N that is not above the resumed iteration.
    """
    hub = runner.message_hub
    for hook in runner.hooks:
        if not isinstance(hook, CheckpointHook) or not hook.save_best:
            continue
        folder = Path(runner.work_dir)
        if hook.out_dir is not None:  # as CheckpointHook.before_train does
            folder = Path(hook.out_dir) / folder.name
        names = hook.key_indicators
        for name in names:
            key = 'best' if len(names) == 1 else f'best_{name}'
            score = key.replace('best', 'best_score', 1)
            if score not in hub.runtime_info:
                continue
            metric = '.+' if name == 'auto' else re.escape(name)
            metric = metric.replace('/', '_')
            files = {
                int(match[1]): path
                for path in folder.glob('best_*.pth')
                if (
                    match := re.fullmatch(
                        rf'best_{metric}_iter_(\d+)\.pth', path.name
                    )
                )
            }
            iterations = [n for n in files if n <= runner.iter]
            if iterations:
                path = str(files[max(iterations)])
                hub.update_info(key.replace('best', 'best_ckpt', 1), path)
