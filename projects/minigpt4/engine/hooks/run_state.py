# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Save and restore the state that mmengine's checkpoints lack."""

import copy
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ...registry import HOOKS
from ..saving import restore_best_checkpoint


@HOOKS.register_module()
class ResumeHook(Hook):
    """Save and restore random generators, data positions and counts."""

    priority = 'LOW'  # before CheckpointHook, which saves on one rank only

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def before_train(self, runner: Runner) -> None:
        """Find the best checkpoint of the run that is resumed."""
        if _train_loop(runner).resumed_from is not None:
            restore_best_checkpoint(runner)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Mapping[str, Any] | None = None,
    ) -> None:
        """Sum the counts of all ranks before a checkpoint may be saved."""
        if get_world_size() > 1 and (
            self.every_n_train_iters(runner, 10)
            or self.is_last_train_iter(runner)
        ):
            self.before_stop(runner)

    def before_stop(self, runner: Runner) -> None:
        """Sum the counts of all ranks. All ranks have to call this."""
        self._counts = dict(_train_loop(runner).total_counts())

    def before_save_checkpoint(
        self, runner: Runner, checkpoint: dict[str, Any]
    ) -> None:
        """Add data positions, counts and generator states to a checkpoint."""
        state: Any = np.random.get_state()
        algorithm, words, *rest = state
        loop = _train_loop(runner)
        checkpoint['data'] = dict(
            counts=dict(self._counts or getattr(loop, 'counts', {}))
        )
        streams = getattr(loop, 'streams', None)
        if streams is not None:
            checkpoint['data'].update(
                # a copy: the next step changes it
                positions=copy.deepcopy(streams.positions),
                streams=streams.streams,
                shards=dict(streams.num_shards),
            )
        if getattr(loop, 'done', None) is not None:
            checkpoint['data'].update(
                samples=loop.samples_read, batch=loop.global_batch
            )
        checkpoint['random'] = dict(
            python=random.getstate(),
            # a list, because torch.load(weights_only=True) reads no array
            numpy=(algorithm, words.tolist(), *rest),
            torch=torch.get_rng_state(),
            cuda=torch.cuda.get_rng_state_all()
            if torch.cuda.is_available()
            else [],
        )

    def after_load_checkpoint(
        self, runner: Runner, checkpoint: dict[str, Any]
    ) -> None:
        """Restore the state if the run is resumed, not with ``load_from``."""
        if not runner._resume:
            return
        if 'data' in checkpoint:
            loop, data = _train_loop(runner), checkpoint['data']
            loop.resumed_data = data
            if is_main_process():
                for name, number in data.get('counts', {}).items():
                    if type(number) is int:
                        loop.counts[str(name)] += number
        if 'random' not in checkpoint:
            runner.logger.warning(
                'the checkpoint has no states of the random generators; '
                'the resumed run draws other random numbers.'
            )
            return
        states = checkpoint['random']
        version, words, gauss = states['python']
        random.setstate((version, tuple(words), gauss))
        np.random.set_state(states['numpy'])
        torch.set_rng_state(states['torch'].cpu())
        if torch.cuda.is_available() and states['cuda']:
            # the run may be resumed with fewer GPUs
            for device, state in zip(
                range(torch.cuda.device_count()), states['cuda'], strict=False
            ):
                torch.cuda.set_rng_state(state.cpu(), device)


def _train_loop(runner: Runner) -> Any:
    return runner.train_loop
