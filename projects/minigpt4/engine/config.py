# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""From a config file to a runner: what depends on the machine is set here."""

import copy
import os
import traceback
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.dist import get_world_size, init_dist, is_distributed

from ..utils.errors import one_line
from ..utils.regular_files import open_regular
from .cfg_options import merge_options
from .checkpoints import latest_checkpoint as latest_checkpoint
from .runner import CheckedRunner

_LAUNCHER_VARIABLES = dict(
    pytorch=('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'),
    slurm=('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_NODELIST'),
    mpi=('OMPI_COMM_WORLD_LOCAL_RANK',),
)
_TRAINING = (
    'model',
    'train_dataloader',
    'train_cfg',
    'optim_wrapper',
    'max_iters',
    'global_batch_size',
)
_LAUNCHERS = dict(
    pytorch='tools/dist_train.sh, tools/dist_test.sh or torchrun',
    slurm='tools/slurm_train.sh or srun',
    mpi='mpirun',
)


def start_ranks(cfg: Config, launcher: str) -> None:
    """Join the other ranks: NCCL where there are GPUs, else gloo.

    mmengine's own start needs a GPU (it calls ``torch.cuda.set_device``), so
    on a CPU the group is made here before the runner.

    Args:
        cfg: The config; its launcher is set.
        launcher: ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``.
    """
    cfg.launcher = launcher
    if launcher == 'none' or is_distributed():
        return
    if launcher != 'pytorch' and not torch.cuda.is_available():
        raise ValueError(
            f"launcher {launcher!r} needs GPUs; on CPUs use 'pytorch'."
        )
    needed = _LAUNCHER_VARIABLES[launcher]
    missing = [name for name in needed if name not in os.environ]
    if missing:
        raise ValueError(
            f'--launcher {launcher}: {", ".join(missing)} is not set; start '
            f'the tool with {_LAUNCHERS[launcher]}, or without --launcher.'
        )
    if torch.cuda.is_available():
        ranks = int(os.environ.get('LOCAL_WORLD_SIZE', 1))
        if ranks > torch.cuda.device_count():
            raise ValueError(
                f'{ranks} processes on this machine, but it has '
                f'{torch.cuda.device_count()} GPUs; start one for each GPU.'
            )
        init_dist(launcher, backend='nccl')
        return
    try:
        torch.distributed.init_process_group('gloo')
    except torch.distributed.DistNetworkError as error:
        if 'EADDRINUSE' in str(error):
            raise ValueError(
                f'port {os.environ["MASTER_PORT"]} is in use; set PORT to '
                'another one.'
            ) from error
        raise


def leave_ranks() -> None:
    """Part from the other ranks; without it gloo aborts at exit at times."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def fit_batch(cfg: Config, world_size: int) -> int:
    """Share the global batch out to ranks.

    ``cfg.global_batch_size`` is what the paper says (256, 12); each rank's
    batch follows from the number of ranks, and ``model.micro_batch_size``
    cuts it into pieces that fit the memory, with the same gradient.

    Returns:
        The batch of one rank.

    Raises:
        ValueError: The global batch cannot be shared out evenly, or the
            config sets the batch of a rank itself.
    """
    total = cfg.global_batch_size
    if total % world_size:
        raise ValueError(
            f'a global batch of {total} cannot be shared out evenly to '
            f'{world_size} ranks; set global_batch_size to a multiple, e.g. '
            f'{total - total % world_size or world_size}.'
        )
    share = total // world_size
    loader = cfg.train_dataloader
    streams = 'sources' in loader.dataset
    for name, group in (
        ('train_dataloader', loader),
        ('train_dataloader.dataset', loader.dataset if streams else {}),
    ):
        # a config that a run of version 0.1 has saved holds the share
        if group.get('batch_size') not in (None, share):
            raise ValueError(
                f'{name}.batch_size is {group["batch_size"]}, but it follows '
                f'from global_batch_size ({total}) and the number of ranks '
                f'({world_size}); set global_batch_size, and for the memory '
                'model.micro_batch_size.'
            )
    loader.batch_size = None if streams else share  # a stream makes batches
    if streams:
        loader.dataset.batch_size = share
    return share


def fit_workers(cfg: Config) -> None:
    """Take out settings of data workers where there are none.

    ``num_workers=0`` alone is thus enough to read the data in the process
    itself; torch refuses it with the others.
    """
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        loader = cfg.get(name)
        if loader is not None and not loader.get('num_workers'):
            loader.pop('persistent_workers', None)
            loader.pop('prefetch_factor', None)


def share_seed(cfg: Config) -> None:
    """Let ``randomness.seed`` seed the order of shards and the questions."""
    seed = cfg.get('randomness', {}).get('seed') or 0
    dataset = cfg.train_dataloader.dataset
    if 'sources' in dataset:
        dataset.setdefault('seed', seed)
    for step in dataset.get('pipeline', []):
        if 'questions' in step:
            step.setdefault('seed', seed)


def use_amp(cfg: Config) -> None:
    """Train in 16 bits: bf16, or fp16 with a scaled loss where it lacks.

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
    path: str, work_dir: str | None = None, options: dict | None = None
) -> Config:
    """Read a config and what the command line says over it.

    Args:
        path: The config file.
        work_dir: Where results go; by default ``work_dirs/NAME``.
        options: ``--cfg-options``.

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
    except Exception as error:  # a config is code: it may raise any
        raise ValueError(_config_fault(path, error)) from error
    if options:
        merge_options(cfg, options)
    if work_dir is not None:
        cfg.work_dir = work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = os.path.join('work_dirs', Path(path).stem)
    return cfg


def _config_fault(path: str, error: Exception) -> str:
    """Where and why a config cannot be read."""
    line = None
    if isinstance(error, SyntaxError):
        line, message = error.lineno, error.msg
    else:
        message = one_line(error)
        for frame in traceback.extract_tb(error.__traceback__):
            if os.path.abspath(frame.filename) == os.path.abspath(path):
                line = frame.lineno
    where = f' at line {line}' if line else ''
    return (
        f'the config {path} cannot be read{where}: {type(error).__name__}: '
        f'{message}'
    )


def require_training(cfg: Config) -> None:
    """Check that a config has what a training needs.

    Raises:
        ValueError: It lacks a part.
    """
    lacking = [key for key in _TRAINING if cfg.get(key) is None]
    if lacking:
        raise ValueError(
            f'the config {cfg.filename} lacks {", ".join(lacking)}, so '
            'nothing can be trained; see configs/minigpt4/ for configs of '
            'the two stages.'
        )


def drop_training(cfg: Config) -> None:
    """Leave of a config what a test needs.

    Raises:
        ValueError: The config tests nothing.
    """
    if cfg.get('test_dataloader') is None:
        raise ValueError(
            f'{cfg.filename} has no test_dataloader; give a '
            'config that tests, e.g. stage2_nano.py.'
        )
    for key in (
        'train_dataloader',
        'train_cfg',
        'optim_wrapper',
        'param_scheduler',
        'custom_hooks',
    ):
        cfg.pop(key, None)


def build_runner(cfg: Config) -> CheckedRunner:
    """Build the runner of a config, which is left as it is."""
    cfg = copy.deepcopy(cfg)
    fit_workers(cfg)
    share = None
    if cfg.get('train_dataloader') is not None:
        if cfg.optim_wrapper.get('accumulative_counts', 1) != 1:
            raise ValueError(
                'optim_wrapper.accumulative_counts is not used here; set '
                'model.micro_batch_size: it cuts the batch into pieces of '
                'that size with the same gradient.'
            )
        cfg.train_cfg.setdefault('max_iters', cfg.max_iters)
        share_seed(cfg)
        share = fit_batch(cfg, get_world_size())
    if is_distributed():
        cfg.model_wrapper_cfg = dict(type='minigpt4.RankParallel')
    runner = CheckedRunner.from_cfg(cfg)
    if share is not None:
        micro = cfg.model.get('micro_batch_size') or share
        if cfg.get('needs_load_from') and not cfg.get('load_from'):
            runner.logger.warning(
                'stage 2 starts from a random projection; expected one of '
                'stage 1: --cfg-options load_from=work_dirs/stage1/...'
            )
        runner.logger.info(
            f'global batch {cfg.global_batch_size} = {get_world_size()} ranks '
            f'x {share} samples, in pieces of {min(micro, share)}'
        )
    return runner
