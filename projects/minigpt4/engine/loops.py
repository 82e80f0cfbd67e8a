# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The training loop: endless data, resumed where it was, counted."""

import signal
from collections import Counter
from collections.abc import Callable

import torch
from mmengine import dist
from mmengine.device import get_device
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import BaseLoop
from torch import nn

from ..datasets import ImageTextPairs
from ..registry import LOOPS, MODEL_WRAPPERS
from ..utils.signals import (
    STOP_SIGNALS,
    StopRequest,
    StopSignal,
    blocked_signals,
)
from .ranks import StopVote
from .report import innermost_message
from .saving import save_now


@MODEL_WRAPPERS.register_module()
class RankParallel(nn.Module):
    """Data parallelism for a model that averages its own gradients.

    ``DistributedDataParallel`` broadcasts and walks all parameters, of which
    MiniGPT-4 trains one in two thousand, and knows no CPU. Here the trained
    parameters are broadcast once; :meth:`MiniGPT4.train_step` averages
    gradients over ranks.

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
        self.train_step = module.train_step
        self.val_step = module.val_step
        self.test_step = module.test_step

    def forward(self, *args, **kwargs):
        """The model's forward."""
        return self.module(*args, **kwargs)


class _ValidationStoppedError(Exception):
    """A validation was ended by a signal."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class _WithoutSignals:
    """The start of a data worker that ends with its parent alone."""

    def __init__(self, start: Callable | None) -> None:
        self.start = start

    def __call__(self, number: int) -> None:
        for signum in STOP_SIGNALS:
            signal.signal(signum, signal.SIG_IGN)
        if self.start is not None:
            self.start(number)


class _StoppableValidation(Hook):
    """Ends a validation after a batch where a rank has received a signal.

    On several ranks only where all have the same number of batches, so that
    they ask each other equally often; else the validation is completed.
    """

    def __init__(self, stop: StopRequest, vote: StopVote) -> None:
        self.stop, self.vote = stop, vote
        self._asks = True

    def before_val_epoch(self, runner) -> None:
        """Compare the numbers of batches; shield the data workers."""
        loader = runner.val_loop.dataloader
        if not isinstance(loader.worker_init_fn, _WithoutSignals):
            loader.worker_init_fn = _WithoutSignals(loader.worker_init_fn)
        if get_world_size() > 1:
            number = len(loader)
            counts = torch.tensor([number, -number], device=get_device())
            dist.all_reduce(counts, op='max')
            most, least = counts.tolist()
            self._asks = most == -least

    def after_val_iter(self, runner, batch_idx: int, **kwargs) -> None:
        """Raise an error that ends the validation.

        Raises:
            _ValidationStoppedError: A rank has received a signal.
        """
        signum = self.vote.agreed(self.stop.signum) if self._asks else None
        if signum is not None:
            raise _ValidationStoppedError(signum)


@LOOPS.register_module()
class EndlessTrainLoop(BaseLoop):
    """Iterations over an endless stream of batches that knows its place.

    mmengine's loop reads a resumed run's data again from the beginning, and
    switches every module to train mode at each iteration. This one sets the
    place of the sampler or the streaming dataset, gives the data workers the
    model's collator, and counts what they leave out.

    Args:
        runner: The runner.
        dataloader: The loader or its config.
        max_iters: Iterations of the training.
        val_begin: First iteration that may be validated.
        val_interval: Iterations between two validations.

    Attributes:
        positions: Of a streaming dataset, the position of each data worker.
        resumed_from: The checkpoint that the run was resumed from, if any.
        done: Iterations done, the one included whose hooks are running;
            None before the run.
        counts: ``skipped`` samples and ``truncated`` answers so far, of this
            rank.
    """

    def __init__(
        self,
        runner,
        dataloader,
        max_iters: int,
        val_begin: int = 1,
        val_interval: int = 1000,
    ) -> None:
        super().__init__(runner, dataloader)
        self.max_iters, self.max_epochs = max_iters, 1
        self.val_begin, self.val_interval = val_begin, val_interval
        self.stop_training = False
        self.positions: list[dict] | None = None
        self.resumed_from: str | None = None
        self.done: int | None = None
        # the data position of a resumed run and its global batch until then
        self.resumed_samples: int | None = None
        self.resumed_batch: int | None = None
        self._first = (0, 0)  # iterations and samples at the beginning
        self.counts: Counter[str] = Counter()
        self._iter = self._epoch = 0  # set by the runner when it resumes

    @property
    def iter(self) -> int:
        """Iterations done."""
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
        model = runner.model
        model = model.module if is_model_wrapper(model) else model
        self.dataloader.collate_fn = model.collator(training=True)
        # an iterator draws a seed, which a resumed run must not notice
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
            StopSignal: A rank has received a signal; all is saved.
        """
        runner = self.runner
        vote = StopVote()
        validation = _StoppableValidation(stop, vote)
        runner.register_hook(validation, 'LOWEST')
        with blocked_signals():  # data workers end with this process alone
            batches = iter(self.dataloader)
        try:
            runner.model.train()
            while self._iter < self.max_iters and not self.stop_training:
                self._step(self._next(batches))
                signum = vote.agreed(stop.signum)
                if signum is not None and self._iter + 1 < self.max_iters:
                    self._stop(signum)
                self._iter += 1
                if self._is_validated():
                    self._validate()
        finally:
            runner.hooks.remove(validation)
            self._end_workers(batches)
        vote.close()

    def _step(self, batch: dict) -> None:
        runner = self.runner
        self._note(batch)
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
            StopSignal: A rank has received a signal; all is saved.
        """
        try:
            self.runner.val_loop.run()
        except _ValidationStoppedError as stopped:
            self._iter -= 1  # the state after the last step, before the next
            self._stop(stopped.signum, validating=True)
        self.runner.model.train()

    def _is_validated(self) -> bool:
        """Whether a validation follows the iterations done."""
        return (
            self.runner.val_loop is not None
            and self._iter >= self.val_begin
            and (
                self._iter % self.val_interval == 0
                or self._iter == self.max_iters
            )
        )

    def _end_workers(self, batches) -> None:
        """End the data workers, which do not see signals."""
        if hasattr(batches, '_shutdown_workers'):  # torch's, with workers
            batches._shutdown_workers()
            for worker in batches._workers:
                worker.kill()
            self.dataloader._iterator = None

    def _next(self, batches) -> dict:
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
        """Save what was trained and raise :class:`StopSignal`."""
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
        """Samples of one iteration, over all ranks."""
        dataset = self.dataloader.dataset
        streams = isinstance(dataset, ImageTextPairs)
        share = (dataset if streams else self.dataloader).batch_size
        return share * self.runner.world_size

    @property
    def samples_read(self) -> int:
        """Samples of the iterations done, skipped ones included."""
        first, samples = self._first
        return samples + ((self.done or 0) - first) * self.global_batch

    def _set_position(self) -> None:
        """Set where the data begin.

        Raises:
            ValueError: The saved position names sources of other data.
        """
        self.done, size = self._iter, self.global_batch
        samples = self.resumed_samples
        if samples is None:
            samples = self._iter * size
        self._first = (self._iter, samples)
        if self.resumed_batch not in (None, size):
            self.runner.logger.warning(
                f'the config has a global batch of {size}, the run that '
                f'saved {self.resumed_from} had {self.resumed_batch}; the '
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
            workers = max(self.dataloader.num_workers, 1)
            sources = [source.name for source in dataset.sources]
            saved = self.positions or ()
            named = {name for position in saved for name in position}
            if not named.issubset(sources):
                raise ValueError(
                    f'{self.resumed_from} cannot be resumed: its data '
                    f'position names the sources {sorted(named)}, the config '
                    f'has {sorted(sources)}; start a new run with load_from.'
                )
            dataset.start_at(self._iter, self.positions)
            if self.positions is None:
                self.positions = [{} for _ in range(workers)]
        else:
            self.dataloader.sampler.start = samples

    def _note(self, batch: dict) -> None:
        """Keep the batch's position and counts."""
        position = batch.pop('position', None)
        if position is not None and self.positions is not None:
            worker, of_sources = position
            self.positions[worker] = of_sources
        self.counts.update(batch['counts'])

    def total_counts(self) -> Counter[str]:
        """The counts over all ranks; waits for each of them."""
        names = ('skipped', 'truncated')
        numbers = torch.tensor(
            [self.counts[name] for name in names], device=get_device()
        )
        dist.all_reduce(numbers)
        return Counter(dict(zip(names, numbers.tolist())))
