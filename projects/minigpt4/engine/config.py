# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Build a runner from a config file, adapted to the machine and the ranks."""

import contextlib
import copy
import os
import re
import traceback
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import get_world_size, is_distributed

from ..datasets.mixed import part_configs
from ..utils.errors import one_line, short_json
from ..utils.open_files import raise_open_files
from ..utils.regular_files import open_regular
from .cfg_options import merge_options
from .logged_config import LoggedConfig
from .resume_checks import latest_checkpoint as latest_checkpoint
from .runner import CheckedRunner

_REQUIRED_FOR_TRAINING = (
    'model',
    'train_dataloader',
    'train_cfg',
    'optim_wrapper',
    'max_iters',
    'global_batch_size',
)
# in Python's messages about a call of a class
_WRONG_ARGUMENTS = re.compile(
    r'__init__\(\) (got an unexpected keyword|missing \d+ required)'
)
_USED_IN_TRAINING_ONLY = (
    'train_dataloader',
    'train_cfg',
    'optim_wrapper',
    'param_scheduler',
    'custom_hooks',
)
# of configs/minigpt4/_base_/runtime.py
_TRAINING_HOOKS = ('resume', 'sanity', 'throughput', 'sample_captions')

# names of default hooks that mmengine adds where they are not set
_MMENGINE_HOOKS = (
    *('runtime_info', 'timer', 'sampler_seed', 'logger'),
    *('param_scheduler', 'checkpoint'),
)
# registry name in 0.1: the present one
_OLD_HOOKS = {'LateInfoHook': 'DeferredLossHook'}
_OTHER_FILES = 128  # open in a process besides images; about 60 were seen


def set_rank_batch(cfg: Config, world_size: int) -> int:
    """Divide the global batch by the number of ranks.

    ``cfg.global_batch_size`` is the paper's number (256, 12); the batch size
    of a rank follows from it. ``model.micro_batch_size`` divides a rank's
    batch into pieces that fit into memory, with the same gradient.

    Args:
        cfg: The config; its data loader is changed.
        world_size: Number of ranks.

    Returns:
        The batch size of one rank.

    Raises:
        ValueError: The global batch cannot be divided evenly, or the config
            sets the batch size of a rank.
    """
    total = cfg.global_batch_size
    if total % world_size:
        raise ValueError(
            f'a global batch of {total} cannot be divided evenly among '
            f'{world_size} ranks; set global_batch_size to a multiple, e.g. '
            f'{total - total % world_size or world_size}.'
        )
    share = total // world_size
    loader = cfg.train_dataloader
    is_stream = 'sources' in loader.dataset
    for name, group in (
        ('train_dataloader', loader),
        ('train_dataloader.dataset', loader.dataset if is_stream else {}),
    ):
        # a config that was dumped by version 0.1 contains the rank's batch
        if group.get('batch_size') not in (None, share):
            raise ValueError(
                f'{name}.batch_size is {group["batch_size"]}, but it follows '
                f'from global_batch_size ({total}) and the number of ranks '
                f'({world_size}); set global_batch_size, and for the memory '
                'model.micro_batch_size.'
            )
    # a streaming data set makes the batches itself
    loader.batch_size = None if is_stream else share
    if is_stream:
        loader.dataset.batch_size = share
    return share


def drop_worker_settings(cfg: Config) -> None:
    """Remove settings of data workers from loaders that have none.

    torch refuses them together with ``num_workers=0``, which is thus enough
    to read the data in the process itself.
    """
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader = cfg.get(name)
        if loader is not None and not loader.get('num_workers'):
            loader.pop('persistent_workers', None)
            loader.pop('prefetch_factor', None)


def require_open_files(cfg: Config) -> None:
    """Raise the limit of open files, and check it for the data workers.

    A data worker needs an open file for each tensor that it sends, so one for
    each image of its batches; without it the process would wait without end.
    A stream (stage 1) sends one tensor for all images of a batch.

    Raises:
        ValueError: The limit is too low for a data loader.
    """
    limit = raise_open_files()
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader = cfg.get(name) or {}
        if not loader.get('num_workers') or not loader.get('batch_size'):
            continue
        # one batch more is made while those wait: test_dataloader of nano has
        # had 709 open files with 250 images
        batches = (loader.get('prefetch_factor') or 2) + 1
        needed = batches * loader['batch_size'] + _OTHER_FILES
        if limit < needed:
            raise ValueError(
                f'a process may have {limit} open files, but the workers of '
                f'{name} need about {needed} for batches of '
                f'{loader["batch_size"]}; raise the limit with "ulimit -n '
                f'{needed}", or set {name}.num_workers=0.'
            )


def set_data_seed(cfg: Config) -> None:
    """Use ``randomness.seed`` for the order of shards and the questions."""
    seed = cfg.get('randomness', {}).get('seed') or 0
    dataset = cfg.train_dataloader.dataset
    if 'sources' in dataset:
        dataset.setdefault('seed', seed)
    for part in part_configs(dataset):
        for step in part.get('pipeline', []):
            if 'questions' in step:
                step.setdefault('seed', seed)


def use_amp(cfg: Config) -> None:
    """Train in 16 bits: bf16, or fp16 with loss scaling if there is no bf16.

    Raises:
        ValueError: There is no GPU.
    """
    if not torch.cuda.is_available():
        raise ValueError(
            '--amp needs a GPU, and there is none; on a CPU set '
            'decoder.dtype=bfloat16 if memory is short.'
        )
    wrapper = cfg.optim_wrapper
    wrapper.type = 'AmpOptimWrapper'
    if torch.cuda.is_bf16_supported():
        wrapper.dtype = 'bfloat16'
    else:
        wrapper.dtype = 'float16'
        wrapper.loss_scale = 'dynamic'


def load_config(
    path: str,
    work_dir: str | None = None,
    options: dict[str, Any] | None = None,
) -> Config:
    """Read a config and apply the options of the command line.

    Args:
        path: The config file.
        work_dir: Folder of the results; by default ``work_dirs/NAME``.
        options: Values of ``--cfg-options`` by dotted key.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It cannot be read, or an option names no setting.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(
            f'config {path!r} does not exist; see configs/minigpt4/.'
        )
    open_regular(path).close()
    try:
        cfg = Config.fromfile(path)
    except Exception as error:  # a config is code: it may raise anything
        raise ValueError(_config_error(path, error)) from error
    if options:
        merge_options(cfg, options)
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = os.path.join('work_dirs', Path(path).stem)
    return cfg


def _config_error(path: str, error: Exception) -> str:
    """Format the line and the reason of a config that cannot be read."""
    line, hint = None, ''
    if isinstance(error, SyntaxError):
        line, message = error.lineno, error.msg
    else:
        message = one_line(error)
        for frame in traceback.extract_tb(error.__traceback__):
            if os.path.abspath(frame.filename) == os.path.abspath(path):
                line = frame.lineno
                if 'custom_hooks[' in (frame.line or ''):
                    hint = (
                        '; the hooks that version 0.1 had in custom_hooks '
                        'are now default_hooks, by name: '
                        + ', '.join(_TRAINING_HOOKS)
                    )
    location = f' at line {line}' if line else ''
    return (
        f'the config {path} cannot be read{location}: '
        f'{type(error).__name__}: {message}{hint}'
    )


def require_training(cfg: Config) -> None:
    """Check that a config has all settings that a training needs.

    Raises:
        ValueError: A setting is missing, or is not of the expected kind.
    """
    missing = [key for key in _REQUIRED_FOR_TRAINING if cfg.get(key) is None]
    if missing:
        raise ValueError(
            f'the config {cfg.filename} lacks {", ".join(missing)}, so '
            'nothing can be trained; see configs/minigpt4/ for configs of '
            'the two stages.'
        )
    for key in ('max_iters', 'global_batch_size'):
        if type(cfg[key]) is not int or cfg[key] < 1:
            raise ValueError(
                f'{key} is {short_json(cfg[key])} in {cfg.filename}; expected '
                'a whole number above 0.'
            )
    own = cfg.train_cfg.get('max_iters')
    if own not in (None, cfg.max_iters):
        raise ValueError(
            f'train_cfg.max_iters is {short_json(own)} and max_iters '
            f'{cfg.max_iters} in {cfg.filename}; set max_iters alone.'
        )
    if not cfg.train_dataloader.get('dataset'):
        raise ValueError(
            f'train_dataloader has no dataset in {cfg.filename}; see '
            'configs/minigpt4/ for configs of the two stages.'
        )
    rate = cfg.optim_wrapper.get('optimizer', {}).get('lr', 0.0)
    if not isinstance(rate, (int, float)):
        raise ValueError(
            f'optim_wrapper.optimizer.lr is {short_json(rate)} in '
            f'{cfg.filename}; expected a number.'
        )


@contextlib.contextmanager
def names_wrong_arguments(cfg: Config) -> Iterator[None]:
    """Name the config where an object is built with wrong arguments.

    Raises:
        ValueError: A class has been called with an argument that it does
            not have, or without one that it needs.
    """
    try:
        yield
    except TypeError as error:
        if not _WRONG_ARGUMENTS.search(str(error)):
            raise
        raise ValueError(
            f'{cfg.filename} has a wrong setting: {one_line(error)}.'
        ) from error


def drop_training(cfg: Config) -> None:
    """Remove from a config the settings that only a training uses.

    Raises:
        ValueError: The config has no ``test_dataloader``.
    """
    if cfg.get('test_dataloader') is None:
        raise ValueError(
            f'{cfg.filename} has no test_dataloader; give a '
            'config that tests, e.g. stage2_nano.py.'
        )
    for key in _USED_IN_TRAINING_ONLY:
        cfg.pop(key, None)
    for name in (*_TRAINING_HOOKS, 'reference'):
        cfg.get('default_hooks', {}).pop(name, None)


def build_runner(cfg: Config) -> CheckedRunner:
    """Build the runner of a config, which is not changed."""
    cfg = LoggedConfig.of(copy.deepcopy(cfg))
    drop_worker_settings(cfg)
    rank_batch = None
    if cfg.get('train_dataloader') is not None:
        if cfg.optim_wrapper.get('accumulative_counts', 1) != 1:
            raise ValueError(
                'optim_wrapper.accumulative_counts is not used here; set '
                'model.micro_batch_size: it cuts the batch into pieces of '
                'that size with the same gradient.'
            )
        cfg.train_cfg.setdefault('max_iters', cfg.max_iters)
        set_data_seed(cfg)
        rank_batch = set_rank_batch(cfg, get_world_size())
    if is_distributed():
        cfg.model_wrapper_cfg = dict(type='minigpt4.RankParallel')
    drop_repeated_hooks(cfg)
    require_open_files(cfg)
    runner = CheckedRunner.from_cfg(cfg)
    if rank_batch is not None:
        micro_batch = cfg.model.get('micro_batch_size') or rank_batch
        if cfg.get('needs_load_from') and not cfg.get('load_from'):
            runner.logger.warning(
                'the training starts from a random projection; expected the '
                'one of the stage before (for DPO stage 2), e.g. '
                '--cfg-options load_from=work_dirs/stage1/...'
            )
        runner.logger.info(
            f'global batch {cfg.global_batch_size} = {get_world_size()} ranks '
            f'x {rank_batch} samples, in pieces of '
            f'{min(micro_batch, rank_batch)}'
        )
    return runner


def drop_repeated_hooks(cfg: Config) -> None:
    """Remove a default hook whose class is in ``custom_hooks`` too.

    A config of 0.1 may set ``custom_hooks``, which then held all hooks of the
    project; the hooks of the config count, each class once.
    """
    names = {
        _OLD_HOOKS.get(name, name)
        for name in map(_class_name, cfg.get('custom_hooks') or ())
    }
    for key, hook in list((cfg.get('default_hooks') or {}).items()):
        if hook is not None and _class_name(hook) in names:
            if key in _MMENGINE_HOOKS:  # None, or mmengine adds its own
                cfg.default_hooks[key] = None
            else:
                del cfg.default_hooks[key]
            warnings.warn(
                f'default_hooks.{key} is replaced by the hook of the same '
                'class in custom_hooks; name it in default_hooks instead.',
                FutureWarning,
                stacklevel=2,
            )


def _class_name(hook: Any) -> str:
    """The name of a hook's class, from its config or the hook itself."""
    kind = hook.get('type') if isinstance(hook, Mapping) else type(hook)
    name = kind if isinstance(kind, str) else getattr(kind, '__name__', '')
    return name.rpartition('.')[2]
