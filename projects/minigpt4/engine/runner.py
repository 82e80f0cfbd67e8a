# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""mmengine's runner, with checkpoints that are validated before use.

When it resumes, mmengine executes the text of ``meta['config']`` as Python, to
adapt the iterations to a changed number of GPUs. This runner parses no text of
a checkpoint; the number of GPUs does not matter, because the global batch
stays the same.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.device import get_device
from mmengine.runner import Runner
from mmengine.runner.checkpoint import _load_checkpoint_to_model

from ..utils.errors import line_with_name, one_line
from ..weights.checkpoint_files import CheckpointError, read_checkpoint
from ..weights.checksum import add_checksum
from ..weights.download import download_file, is_remote
from .ranks import on_main_rank, unwrapped_model
from .resume_checks import check_optimizer, latest_resumable, resume_state
from .resumed_settings import (
    read_settings,
    restore_schedules,
    restore_settings,
)

_OPTIMIZER_KEYS = ('state', 'param_groups', 'loss_scaler')


class CheckedRunner(Runner):
    """A runner that validates checkpoints and executes nothing in them."""

    # set by mmengine's constructor
    _resume: bool
    _load_from: str | None
    optim_wrapper: Any
    param_schedulers: Any

    def dump_config(self) -> None:
        """Write the config without values that depend on the rank count."""
        loader: Any = self.cfg.get('train_dataloader') or {}
        loader.pop('batch_size', None)
        if 'sources' in loader.get('dataset', {}):
            loader['dataset'].pop('batch_size', None)
        super().dump_config()

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        """Call all hooks; afterwards add a checksum to a checkpoint."""
        super().call_hook(fn_name, **kwargs)
        if fn_name == 'before_save_checkpoint':
            try:
                add_checksum(kwargs['checkpoint'])
            except TypeError as error:  # a user's hook added an entry
                self.logger.warning(f'no checksum is stored: {error}')

    def save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        """Save a checkpoint on rank 0. All ranks have to call this."""
        share = getattr(self._train_loop, 'share_positions', None)
        if share is not None:
            share()
        super().save_checkpoint(*args, **kwargs)

    def load_or_resume(self) -> None:
        """Load or resume, from the newest usable checkpoint by default."""
        if self._resume and self._load_from is None and not self._has_loaded:
            self._load_from = on_main_rank(
                lambda: latest_resumable(self.work_dir)
            )
            if self._load_from is None:
                self.logger.info(f'nothing to resume in {self.work_dir}')
                self._resume = False
        super().load_or_resume()

    def load_checkpoint(
        self,
        filename: str,
        map_location: Any = 'cpu',
        strict: bool = False,
        revise_keys: list = [(r'^module.', '')],  # noqa: B006
    ) -> dict:
        """Load the weights of a checkpoint.

        Args:
            filename: A file or a URL.
            map_location: Device of the tensors.
            strict: Whether names must match exactly.
            revise_keys: Patterns of names and their replacements.

        Raises:
            CheckpointError: It is damaged, or does not fit the model.
        """
        path = _local_path(filename)
        checkpoint = read_checkpoint(path, map_location)
        return self._load_weights(checkpoint, path, strict, revise_keys)

    def _load_weights(
        self, checkpoint: dict, path: Path, strict: bool, revise_keys: list
    ) -> dict:
        model = unwrapped_model(self)
        try:
            self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
            checkpoint = _load_checkpoint_to_model(
                model, checkpoint, strict, revise_keys=revise_keys
            )
        except CheckpointError:
            raise
        except (LookupError, ValueError, RuntimeError, TypeError) as error:
            raise CheckpointError(line_with_name(error, str(path))) from error
        self._has_loaded = True
        self.logger.info(f'Load checkpoint from {path}')
        return checkpoint

    def resume(
        self,
        filename: str,
        resume_optimizer: bool = True,
        resume_param_scheduler: bool = True,
        map_location: Any = 'default',
    ) -> None:
        """Resume a training run.

        If settings of the config and the checkpoint differ, those of the
        config are used, and a warning names them.

        Args:
            filename: A file or a URL.
            resume_optimizer: Whether to restore the optimizer's state.
            resume_param_scheduler: Whether to restore the schedule.
            map_location: Device of the tensors.

        Raises:
            CheckpointError: The run cannot be resumed from it.
        """
        path = _local_path(filename)
        device = get_device() if map_location == 'default' else map_location
        checkpoint = read_checkpoint(path, device)
        state = resume_state(checkpoint, path)
        self._restore_seed(state['seed'], path)
        meta = {key: state[key] for key in ('epoch', 'iter', 'seed')}
        self._load_weights(
            {**checkpoint, **state, 'meta': meta},
            path,
            strict=False,
            revise_keys=[(r'^module.', '')],
        )
        loop: Any = self.train_loop
        loop._epoch, loop._iter = state['epoch'], state['iter']
        loop.resumed_from = str(path)
        self.message_hub.load_state_dict(state['message_hub'])
        self.optim_wrapper = self.build_optim_wrapper(self.optim_wrapper)
        schedulers: Any = []
        if self.param_schedulers is not None:
            schedulers = self.build_param_scheduler(self.param_schedulers)
            self.param_schedulers = schedulers
        # with mmengine's group without parameters, whose rate is base_lr in
        # the log
        optimizer = self.optim_wrapper
        configured, changes = read_settings(optimizer), []
        if resume_optimizer:
            self._load_optimizer(state['optimizer'], path)
            changes += restore_settings(optimizer, configured)
        if resume_param_scheduler:
            changes += restore_schedules(
                schedulers,
                state['param_schedulers'],
                optimizer,
                configured,
                state['iter'],
                path,
            )
        if changes:
            self.logger.warning(
                f'the config differs from the run that saved {path} and is '
                f'followed: {", ".join(changes)}.'
            )
        self._has_loaded = True
        self.logger.info(f'resumed {path} at iteration {self.iter}')

    def _restore_seed(self, seed: int | None, path: Path) -> None:
        """Restore the seed of the run.

        The seed determines the order of the data, so with another one the
        saved data position would refer to other samples.

        Raises:
            CheckpointError: The config sets another seed.
        """
        current = self._randomness_cfg.get('seed')
        if seed is None or seed == current:
            return
        if current is not None:
            raise CheckpointError(
                f'{path} was trained with seed {seed}, the config has '
                f'{current}; set randomness.seed={seed} to resume.'
            )
        self._randomness_cfg.update(seed=seed)
        self.set_randomness(**self._randomness_cfg)

    def _load_optimizer(self, state: dict, path: Path) -> None:
        check_optimizer(state, self.optim_wrapper.optimizer, path)
        known = {k: state[k] for k in _OPTIMIZER_KEYS if k in state}
        try:
            self.optim_wrapper.load_state_dict(known)
        except (ValueError, RuntimeError, KeyError, TypeError) as error:
            raise CheckpointError(
                f'{path} cannot be resumed: its optimizer state does not fit '
                f'({one_line(error)}).'
            ) from error
        base: Any = self.optim_wrapper.base_param_settings
        saved = state.get('base_param_settings')
        rate = saved.get('lr') if isinstance(saved, Mapping) else None
        if base is not None and type(rate) is float:
            base['lr'] = rate


def _local_path(filename: 'str | Path') -> Path:
    """Return the path of a local file, or of a URL after its download."""
    if is_remote(str(filename)):
        return Path(download_file(str(filename)))
    return Path(filename).expanduser()
