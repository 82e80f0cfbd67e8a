# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""What happens beside training: resuming, sanity, samples, throughput."""

import copy
import math
import random
import resource
import time
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_world_size, is_main_process
from mmengine.fileio import register_backend
from mmengine.fileio.backends import LocalBackend
from mmengine.hooks import Hook, LoggerHook, RuntimeInfoHook
from mmengine.model import is_model_wrapper
from mmengine.registry import DATASETS

from ..datasets import ImageTextPairs
from ..deprecated import renamed
from ..images.figure import captioned, file_name
from ..prompts import Turn
from ..registry import HOOKS
from ..utils.atomic import write_atomically
from ..utils.errors import UserError, printable
from .saving import find_best


class AtomicBackend(LocalBackend):
    """mmengine's local files, written whole or not at all."""

    def put(self, obj: bytes, filepath) -> None:
        """Write bytes to a file atomically."""
        write_atomically(filepath, obj)

    def put_text(self, obj: str, filepath, encoding: str = 'utf-8') -> None:
        """Write text to a file atomically."""
        write_atomically(filepath, obj.encode(encoding))


register_backend('atomic', AtomicBackend, force=True)


def _model(runner):
    return (
        runner.model.module if is_model_wrapper(runner.model) else runner.model
    )


@HOOKS.register_module()
class DeferredLossHook(RuntimeInfoHook):
    """Notes what a step returns without waiting for the device.

    mmengine's hook reads the loss at each iteration, so that the GPU runs
    dry between two steps. This one keeps the losses on the device and reads
    them together where they are logged: the log is the same.

    Args:
        interval: The most iterations that losses are kept for; less where
            a logger's interval is no multiple of it.
    """

    def __init__(self, interval: int = 50) -> None:
        self.interval = interval
        self._kept: dict[str, list[torch.Tensor]] = {}

    def before_train(self, runner) -> None:
        """Read as often as the logger writes."""
        super().before_train(runner)
        self._kept.clear()
        for hook in runner.hooks:
            if isinstance(hook, LoggerHook):
                self.interval = math.gcd(self.interval, hook.interval)

    def before_train_iter(
        self, runner, batch_idx: int, data_batch=None
    ) -> None:
        """Note the learning rate where it is logged."""
        if self._is_logged(runner, batch_idx):
            super().before_train_iter(runner, batch_idx, data_batch)
        else:
            runner.message_hub.update_info('iter', runner.iter)

    def after_train_iter(
        self, runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        """Keep the losses; read them where they are logged."""
        for name, value in (outputs or {}).items():
            self._kept.setdefault(name, []).append(torch.as_tensor(value))
        if self._is_logged(runner, batch_idx):
            self._read(runner)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Let a resumed run's log know all losses."""
        if self._kept:
            self._read(runner)
            checkpoint['message_hub'] = runner.message_hub.state_dict()

    def after_train(self, runner) -> None:
        """Read the last ones."""
        self._read(runner)
        super().after_train(runner)

    def _is_logged(self, runner, batch_idx: int) -> bool:
        # the logger also writes where small data were read once
        return self.every_n_train_iters(
            runner, self.interval
        ) or self.end_of_epoch(runner.train_dataloader, batch_idx)

    def _read(self, runner) -> None:
        for name, values in self._kept.items():
            for value in torch.stack(values).tolist():
                runner.message_hub.update_scalar(f'train/{name}', value)
        self._kept.clear()


@HOOKS.register_module()
class ResumeHook(Hook):
    """Saves and restores what mmengine does not: RNG and data position."""

    priority = 'LOW'  # before a checkpoint is written, which one rank does

    def __init__(self) -> None:
        self._counts: dict = {}

    def before_train(self, runner) -> None:
        """Find the best checkpoint of the run that is resumed."""
        if runner.train_loop.resumed_from is not None:
            find_best(runner)

    def after_train_iter(
        self, runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        """Sum up the ranks' counts where a checkpoint may follow."""
        if get_world_size() > 1 and (
            self.every_n_train_iters(runner, 10)
            or self.is_last_train_iter(runner)
        ):
            self.before_stop(runner)

    def before_stop(self, runner) -> None:
        """Sum up the ranks' counts; all ranks call it."""
        self._counts = dict(runner.train_loop.total_counts())

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Add them to a checkpoint."""
        state: Any = np.random.get_state()
        kind, keys, *rest = state
        loop = runner.train_loop
        checkpoint['data'] = dict(
            positions=getattr(loop, 'positions', None),
            counts=dict(self._counts or getattr(loop, 'counts', {})),
        )
        if getattr(loop, 'done', None) is not None:
            checkpoint['data'].update(
                samples=loop.samples_read, batch=loop.global_batch
            )
        checkpoint['random'] = dict(
            python=random.getstate(),
            numpy=(kind, keys.tolist(), *rest),  # weights_only reads that
            torch=torch.get_rng_state(),
            cuda=torch.cuda.get_rng_state_all()
            if torch.cuda.is_available()
            else [],
        )

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Restore them where the run is resumed (not at ``load_from``)."""
        if not runner._resume:
            return
        if 'data' in checkpoint:
            loop, data = runner.train_loop, checkpoint['data']
            loop.positions = data.get('positions')
            loop.resumed_samples = data.get('samples')
            loop.resumed_batch = data.get('batch')
            if is_main_process():
                counts = checkpoint['data'].get('counts', {})
                for name, number in counts.items():
                    if type(number) is int:
                        runner.train_loop.counts[str(name)] += number
        if 'random' not in checkpoint:
            runner.logger.warning(
                'the checkpoint holds no states of the random generators; '
                'the run goes on with other random numbers.'
            )
            return
        states = checkpoint['random']
        version, numbers, gauss = states['python']
        random.setstate((version, tuple(numbers), gauss))
        np.random.set_state(states['numpy'])
        torch.set_rng_state(states['torch'].cpu())
        if torch.cuda.is_available() and states['cuda']:
            # the run may go on with fewer GPUs
            for device, state in zip(
                range(torch.cuda.device_count()), states['cuda'], strict=False
            ):
                torch.cuda.set_rng_state(state.cpu(), device)


class UnusableRunError(UserError, RuntimeError):
    """A run was stopped because its weights would be of no use."""


@HOOKS.register_module()
class SanityHook(Hook):
    """Stops a run that cannot become anything, and says why.

    Looks at the loss every ``interval`` iterations only, for each look waits
    for the device.

    Args:
        interval: Iterations between two looks.
        patience: Looks in a row at a loss near ln(vocabulary), or at data of
            which nothing could be read, before the run is stopped.
    """

    priority = 'LOW'  # before a checkpoint is written

    def __init__(self, interval: int = 10, patience: int = 10) -> None:
        self.interval = interval
        self.patience = patience
        self._uniform = 0
        self._unread = 0

    def after_train_iter(
        self, runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        """Look at loss and counts."""
        if not self.every_n_train_iters(runner, self.interval):
            return
        loss = float(outputs['loss'])
        if not math.isfinite(loss):
            raise UnusableRunError(
                f'the loss is {loss} at iteration {runner.iter + 1}; with '
                'fp16 use --amp (loss scaling) or bf16, else lower the '
                'learning rate; the last checkpoint is untouched.'
            )
        vocab_size = _model(runner).decoder.vocab_size
        near = abs(loss - math.log(vocab_size)) < 0.01
        self._uniform = self._uniform + 1 if near else 0
        if self._uniform >= self.patience:
            raise UnusableRunError(
                f'the loss has stayed at ln({vocab_size}) = '
                f'{math.log(vocab_size):.3f} for '
                f'{self.patience * self.interval} iterations, as of an LLM '
                'that guesses; its weights are wrong or not merged: check '
                'decoder.name_or_path.'
            )
        counts = runner.train_loop.total_counts()
        skipped, truncated = counts['skipped'], counts['truncated']
        # of a batch that no rank can read the loss is 0
        self._unread = self._unread + 1 if loss == 0 and skipped else 0
        if self._unread >= self.patience:
            raise UnusableRunError(
                f'not one sample could be read in {self.patience} looks at '
                f'batches, {skipped} were skipped; see the warnings above and '
                'check the paths of the data.'
            )
        for name, value in (('skipped', skipped), ('truncated', truncated)):
            if value:
                runner.message_hub.update_scalar(f'train/{name}', value)

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        """Save no weights that are not numbers."""
        for name, tensor in checkpoint['state_dict'].items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise UnusableRunError(
                    f'{name} is no longer finite at iteration '
                    f'{runner.iter + 1}, so no checkpoint is saved; resume '
                    'from the last one with a lower learning rate or bf16.'
                )

    def after_train(self, runner) -> None:
        """Say what was left out."""
        counts = runner.train_loop.total_counts()
        seen = runner.iter
        runner.logger.info(
            f'{seen} iterations done; {counts["skipped"]} samples were '
            f'skipped (unreadable or too long), {counts["truncated"]} answers '
            'were cut at max_text_length and lost their end symbol.'
        )
        dataset = getattr(runner.train_loop.dataloader, 'dataset', None)
        counts = getattr(dataset, 'error_counts', None)
        if counts:
            runner.logger.info(
                'errors in the data of this rank in this run: '
                + '; '.join(f'{kind}: {n:,}' for kind, n in counts.items())
            )


@HOOKS.register_module()
class ThroughputHook(Hook):
    """Adds samples and tokens per second and memory to the log.

    The speeds are those of all ranks together; ``peak_memory_mb`` is the
    main memory of this process (mmengine logs a GPU's memory itself).

    Args:
        interval: Iterations that one figure is taken over.
    """

    priority = 'ABOVE_NORMAL'  # before the logger

    def __init__(self, interval: int = 10) -> None:
        self.interval = interval
        self._samples = self._tokens = 0
        self._since = 0.0

    def before_train(self, runner) -> None:
        """Start the clock."""
        self._since = time.perf_counter()

    def after_train_iter(
        self, runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        """Count a batch by the numbers of its collator."""
        self._samples += data_batch['counts']['samples']
        self._tokens += data_batch['counts']['tokens']
        if self.every_n_train_iters(runner, self.interval):
            now = time.perf_counter()
            rate = get_world_size() / (now - self._since)
            hub = runner.message_hub
            hub.update_scalar('train/samples_per_s', self._samples * rate)
            hub.update_scalar('train/tokens_per_s', self._tokens * rate)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            hub.update_scalar('train/peak_memory_mb', peak / 1024)
            self._samples = self._tokens = 0
            self._since = now


@HOOKS.register_module()
class SampleCaptionsHook(Hook):
    """Generates captions during training: a table of images and captions.

    Written to the log, and as pictures to every visualisation backend. A
    sample whose prompt does not fit into the LLM's context is named and left
    out.

    Args:
        dataset: Config of a dataset whose first samples are captioned; by
            default the training data. Without a ``type`` it changes settings
            of the training data, e.g. ``data_root`` and ``ann_file``.
        num_samples: How many.
        interval: Iterations between two tables.
        max_new_tokens: The most tokens of a caption.
    """

    def __init__(
        self,
        dataset: dict | None = None,
        num_samples: int = 4,
        interval: int = 500,
        max_new_tokens: int = 80,
    ) -> None:
        self.dataset_cfg = dataset
        self.num_samples = num_samples
        self.interval = interval
        self.max_new_tokens = max_new_tokens
        self._samples: list = []

    def after_train_iter(
        self, runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        """Caption the samples, on all ranks: their layers may be shared."""
        if not (
            self.every_n_train_iters(runner, self.interval)
            or self.is_last_train_iter(runner)
        ):
            return
        if not self._samples:
            self._samples = self._first_samples(runner)
            if not self._samples:
                return
        model = _model(runner)
        model.eval()
        answers = model.generate(
            self._samples, max_new_tokens=self.max_new_tokens
        )
        model.train()
        step = runner.iter + 1
        lines = [f'captions at iteration {step}:']
        for sample, answer in zip(self._samples, answers, strict=True):
            name = printable(str(sample.get('id')))
            lines.append(f'  {name}: {answer.text!r}')
            if sample.images and sample.images[0].dtype == torch.uint8:
                runner.visualizer.add_image(
                    f'caption_{file_name(str(sample.get("id")))}',
                    captioned(sample.images[0], answer.text),
                    step=step,
                )
        runner.logger.info('\n'.join(lines))

    def _first_samples(self, runner) -> list:
        """The first readable samples, the same on all ranks, unanswered."""
        cfg = runner.cfg.train_dataloader.dataset
        if self.dataset_cfg and 'type' in self.dataset_cfg:
            cfg = self.dataset_cfg
        elif self.dataset_cfg:
            cfg = {**cfg, **self.dataset_cfg}
        dataset = DATASETS.build(copy.deepcopy(cfg))
        if isinstance(dataset, ImageTextPairs):
            dataset.rank, dataset.world_size = 0, 1
            dataset.batch_size = self.num_samples
            samples: list = next(iter(dataset))
        else:
            number = min(self.num_samples, len(dataset))
            samples = [dataset[i] for i in range(number)]
        samples = [sample for sample in samples if sample is not None]
        for sample in samples:
            asked = sample.turns[-1].question
            sample.turns = [*sample.turns[:-1], Turn(asked)]
        collator = _model(runner).collator(
            training=False, max_new_tokens=self.max_new_tokens
        )
        return [
            s
            for s in samples
            if collator.is_within_limit(s, collator.tokenize(s))
        ]


__getattr__ = renamed(__name__, {'LateInfoHook': 'DeferredLossHook'})
