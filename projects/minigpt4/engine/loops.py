# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Training loop over endless data, with resume and stop signals."""

import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from mmengine import dist
from mmengine.device import get_device
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, Runner
from torch import nn

from ..datasets import ImageTextPairs
from ..datasets.shard_positions import merged_positions
from ..registry import LOOPS, MODEL_WRAPPERS
from ..utils.signals import (
    STOP_SIGNALS,
    StopRequest,
    StopSignal,
    blocked_signals,
)
from .rank_errors import innermost_message
from .ranks import StopVote, unwrapped_model
from .saving import save_now
from .stream_positions import StreamState, start_state


@MODEL_WRAPPERS.register_module()
class RankParallel(nn.Module):
    """Data parallelism for a model that averages its own gradients.

    ``DistributedDataParallel`` broadcasts and traverses all parameters, of
    which MiniGPT-4 trains one in two thousand, and mmengine's wrapper needs a
    GPU. Here the trained parameters are broadcast once;
    :meth:`MiniGPT4.train_step` averages the gradients over ranks.

    Args:
        module: The model.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        if torch.distributed.is_initialized():
            for parameter in module.parameters():
                if parameter.requires_grad:
                    torch.distributed.broadcast(parameter.data, src=0)
        self.train_step: Any = module.train_step
        self.val_step: Any = module.val_step
        self.test_step: Any = module.test_step

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the model."""
        return self.module(*args, **kwargs)


class _ValidationStoppedError(Exception):
    """A signal ended a validation."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class _IgnoreStopSignals:
    """A ``worker_init_fn`` that lets data workers ignore stop signals.

    The parent process ends them.
    """

    def __init__(self, worker_init_fn: Callable | None) -> None:
        self.worker_init_fn = worker_init_fn

    def __call__(self, worker_id: int) -> None:
        for signum in STOP_SIGNALS:
            signal.signal(signum, signal.SIG_IGN)
        if self.worker_init_fn is not None:
            self.worker_init_fn(worker_id)


class _StoppableValidation(Hook):
    """Ends a validation after the batch in which a rank receives a signal.

    If the ranks have different numbers of batches, they cannot vote after
    each batch, and the validation is completed.
    """

    def __init__(self, stop: StopRequest, vote: StopVote) -> None:
        self.stop, self.vote = stop, vote
        self._votes = True

    def before_val_epoch(self, runner: Runner) -> None:
        """Compare the numbers of batches; protect the data workers."""
        loop: Any = runner.val_loop
        loader = loop.dataloader
        if not isinstance(loader.worker_init_fn, _IgnoreStopSignals):
            loader.worker_init_fn = _IgnoreStopSignals(loader.worker_init_fn)
        if get_world_size() > 1:
            number = len(loader)
            counts = torch.tensor([number, -number], device=get_device())
            dist.all_reduce(counts, op='max')
            largest, smallest = counts.tolist()
            self._votes = largest == -smallest

    def after_val_iter(
        self, runner: Runner, batch_idx: int, *args: Any, **kwargs: Any
    ) -> None:
        """End the validation if a rank has received a signal.

        Raises:
            _ValidationStoppedError: A rank has received a signal.
        """
        signum = self.vote.agreed(self.stop.signum) if self._votes else None
        if signum is not None:
            raise _ValidationStoppedError(signum)


@LOOPS.register_module()
class EndlessTrainLoop(BaseLoop):
    """Train on an endless stream of batches that can be resumed anywhere.

    When a run is resumed, mmengine's loop reads the data from the beginning;
    it also switches every module to train mode at each iteration. This loop
    sets the position of the sampler or the streaming data set, gives the
    model's collator to the data workers, and counts the samples that they
    skip.

    Args:
        runner: The runner.
        dataloader: The loader or its config.
        max_iters: Number of iterations of the training.
        val_begin: First iteration after which a validation may run.
        val_interval: Iterations between two validations.

    Attributes:
        streams: The state of the shard streams of stage 1. A rank knows the
            positions of the streams that it reads; see
            :meth:`share_positions`.
        resumed_data: The entry ``data`` of the checkpoint that the run was
            resumed from.
        resumed_from: The checkpoint that the run was resumed from, if any.
        done: Number of iterations done, including the one whose hooks are
            running; None before the run.
        counts: Number of used ``samples``, ``skipped`` samples and
            ``truncated`` answers of this rank.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: Any,
        max_iters: int,
        val_begin: int = 1,
        val_interval: int = 1000,
    ) -> None:
        super().__init__(runner, dataloader)
        self.max_iters, self.max_epochs = max_iters, 1
        self.val_begin, self.val_interval = val_begin, val_interval
        self.stop_training = False
        self.streams: StreamState | None = None
        self.resumed_data: Mapping = {}
        self.resumed_from: str | None = None
        self.done: int | None = None
        self._start = (0, 0)  # iterations and samples before this run
        self.counts: Counter[str] = Counter()
        self._iter = self._epoch = 0  # the runner sets them to resume

    @property
    def iter(self) -> int:
        """Number of iterations done."""
        return self._iter

    @property
    def epoch(self) -> int:
        """Always 0: the training is one long epoch."""
        return self._epoch

    def run(self) -> nn.Module:
        """Train until ``max_iters``."""
        runner = self.runner
        runner.call_hook('before_train')
        runner.call_hook('before_train_epoch')
        collator = unwrapped_model(runner).train_collator()
        self.dataloader.collate_fn = collator
        # creating an iterator draws a seed, which must not change the random
        # numbers of a resumed run
        self.dataloader.generator = torch.Generator()
        self._set_position()
        with StopRequest() as stop:
            self._train(stop)
        runner.call_hook('after_train_epoch')
        runner.call_hook('after_train')
        return runner.model

    def _train(self, stop: StopRequest) -> None:
        """Run the iterations; a stop signal ends them after a step.

        Raises:
            StopSignal: A rank has received a signal; a checkpoint is saved.
        """
        runner = self.runner
        vote = StopVote()
        validation = _StoppableValidation(stop, vote)
        runner.register_hook(validation, 'LOWEST')
        with blocked_signals():  # only this process ends the data workers
            batches = iter(self.dataloader)
        try:
            runner.model.train()
            while self._iter < self.max_iters and not self.stop_training:
                self._step(self._next(batches))
                signum = vote.agreed(stop.signum)
                if signum is not None and self._iter + 1 < self.max_iters:
                    self._stop(signum)
                self._iter += 1
                if self._validation_is_due():
                    self._validate()
        finally:
            runner.hooks.remove(validation)
            self._end_workers(batches)
        vote.close()

    def _step(self, batch: dict[str, Any]) -> None:
        runner: Any = self.runner
        self._update_position(batch)
        runner.call_hook(
            'before_train_iter', batch_idx=self._iter, data_batch=batch
        )
        outputs = runner.model.train_step(
            batch, optim_wrapper=runner.optim_wrapper
        )
        self.done = self._iter + 1
        runner.call_hook(
            'after_train_iter',
            batch_idx=self._iter,
            data_batch=batch,
            outputs=outputs,
        )

    def _validate(self) -> None:
        """Validate; a stop signal ends it after a batch.

        Raises:
            StopSignal: A rank has received a signal; a checkpoint is saved.
        """
        try:
            self.runner.val_loop.run()
        except _ValidationStoppedError as stopped:
            self._iter -= 1  # as if the signal came right after the step
            self._stop(stopped.signum, validating=True)
        self.runner.model.train()

    def _validation_is_due(self) -> bool:
        """Whether a validation follows the iterations done."""
        return (
            self.runner.val_loop is not None
            and self._iter >= self.val_begin
            and (
                self._iter % self.val_interval == 0
                or self._iter == self.max_iters
            )
        )

    def _end_workers(self, batches: Any) -> None:
        """End the data workers, which ignore signals."""
        if hasattr(batches, '_shutdown_workers'):  # there are workers
            batches._shutdown_workers()
            for worker in batches._workers:
                worker.kill()
            self.dataloader._iterator = None

    def _next(self, batches: Iterator[dict]) -> dict:
        """Read a batch; an error names the resumed checkpoint."""
        try:
            return next(batches)
        except ValueError as error:
            if self.resumed_from is None:
                raise
            message = innermost_message(error)
            raise ValueError(
                f'{message} (resumed from {self.resumed_from})'
            ) from error

    def _stop(self, signum: int, validating: bool = False) -> None:
        """Save a checkpoint and raise :class:`StopSignal`."""
        runner = self.runner
        runner.call_hook('before_stop')
        path = save_now(runner)
        dist.barrier()
        raise StopSignal(
            signum,
            f'stopped by {signal.Signals(signum).name} '
            f'{"in the validation " if validating else ""}after iteration '
            f'{self._iter + 1} of {self.max_iters}; saved {path}; the same '
            'command with --resume goes on from there',
        )

    @property
    def global_batch(self) -> int:
        """Number of samples of one iteration, over all ranks."""
        dataset = self.dataloader.dataset
        is_stream = isinstance(dataset, ImageTextPairs)
        rank_batch = (dataset if is_stream else self.dataloader).batch_size
        return rank_batch * self.runner.world_size

    @property
    def samples_read(self) -> int:
        """Number of samples of the iterations done, with skipped ones."""
        iterations, samples = self._start
        return samples + ((self.done or 0) - iterations) * self.global_batch

    def _set_position(self) -> None:
        """Set the position in the data that the run starts at.

        Raises:
            ValueError: The saved position names sources of other data.
        """
        self.done, size = self._iter, self.global_batch
        samples = self.resumed_data.get('samples')
        batch = self.resumed_data.get('batch')
        if samples is None:
            samples = self._iter * size
        self._start = (self._iter, samples)
        if batch not in (None, size):
            self.runner.logger.warning(
                f'the config has a global batch of {size}, the run that '
                f'saved {self.resumed_from} had {batch}; the '
                f'run goes on with {size}, after the {samples} samples read.'
            )
        if self.resumed_from is not None and self._iter >= self.max_iters:
            self.runner.logger.warning(
                f'{self.resumed_from} has {self._iter} iterations and '
                f'max_iters is {self.max_iters}: nothing is left to train; '
                'raise max_iters to go on.'
            )
        dataset = self.dataloader.dataset
        if isinstance(dataset, ImageTextPairs):
            self.streams, warnings = start_state(
                dataset,
                self.dataloader.num_workers,
                self.resumed_data,
                self.resumed_from,
            )
            for line in warnings:
                self.runner.logger.warning(line)
            dataset.start_at(self._iter, self.streams.positions)
        else:
            self.dataloader.sampler.start = samples

    def _update_position(self, batch: dict[str, Any]) -> None:
        """Store the data position after a batch, and add its counts."""
        position = batch.pop('position', None)
        if position is not None and self.streams is not None:
            group, sources = position
            for name, found in sources.items():
                positions = self.streams.positions[group][name]
                for stream, value in found.items():
                    positions[stream] = value
        self.counts.update(batch['counts'])

    def share_positions(self) -> None:
        """Exchange the positions of the streams that other ranks read.

        All ranks have to call this, before a checkpoint is saved.
        """
        if self.streams is not None and get_world_size() > 1:
            parts = dist.all_gather_object(self.streams.positions)
            self.streams.positions = merged_positions(parts)

    def total_counts(self) -> Counter[str]:
        """Return the counts of all ranks. All ranks have to call this."""
        names = ('samples', 'skipped', 'truncated')
        numbers = torch.tensor(
            [self.counts[name] for name in names], device=get_device()
        )
        dist.all_reduce(numbers)
        return Counter(dict(zip(names, numbers.tolist())))
