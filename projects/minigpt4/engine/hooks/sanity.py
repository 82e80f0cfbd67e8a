# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Stop a run that has diverged or is misconfigured."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ...registry import HOOKS
from ...utils.errors import UserError
from ..ranks import unwrapped_model


class UnusableRunError(UserError, RuntimeError):
    """A run was stopped because its weights would be useless."""


@HOOKS.register_module()
class SanityHook(Hook):
    """Stop a diverged or misconfigured run with an error that says why.

    It reads the loss, and so waits for the device, every ``interval``
    iterations only.

    Args:
        interval: Iterations between two checks.
        patience: Number of consecutive checks with a loss near
            ln(vocabulary), or with unreadable data only, before the run is
            stopped.
    """

    priority = 'LOW'  # before a checkpoint is saved

    def __init__(self, interval: int = 10, patience: int = 10) -> None:
        self.interval = interval
        self.patience = patience
        self._guessing_checks = 0
        self._empty_checks = 0

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Mapping[str, Any] | None = None,
    ) -> None:
        """Check the loss and the counts.

        Raises:
            UnusableRunError: The run has to be stopped.
        """
        if runner.iter + 1 == runner.max_iters:
            self._require_samples(runner)
        if not self.every_n_train_iters(runner, self.interval):
            return
        assert outputs is not None
        loss = float(outputs['loss'])
        if not math.isfinite(loss):
            raise UnusableRunError(
                f'the loss is {loss} at iteration {runner.iter + 1}; with '
                'fp16 use --amp (loss scaling) or bf16, else lower the '
                'learning rate; the last checkpoint is unchanged.'
            )
        vocab_size = unwrapped_model(runner).decoder.vocab_size
        is_guess = abs(loss - math.log(vocab_size)) < 0.01
        self._guessing_checks = self._guessing_checks + 1 if is_guess else 0
        if self._guessing_checks >= self.patience:
            raise UnusableRunError(
                f'the loss has stayed at ln({vocab_size}) = '
                f'{math.log(vocab_size):.3f} for '
                f'{self.patience * self.interval} iterations, like that of '
                'an LLM that guesses; its weights are wrong or not merged: '
                'check decoder.name_or_path.'
            )
        loop: Any = runner.train_loop
        counts = loop.total_counts()
        skipped, truncated = counts['skipped'], counts['truncated']
        # the loss of a batch that no rank can read is 0
        is_empty = loss == 0 and skipped
        self._empty_checks = self._empty_checks + 1 if is_empty else 0
        if self._empty_checks >= self.patience:
            raise UnusableRunError(
                f'not one sample could be read in {self.patience} checked '
                f'batches, {skipped} were skipped; see the warnings above and '
                'check the paths of the data.'
            )
        for name, value in (('skipped', skipped), ('truncated', truncated)):
            if value:
                runner.message_hub.update_scalar(f'train/{name}', value)

    def _require_samples(self, runner: Runner) -> None:
        """Refuse the last weights of a run that has used no sample."""
        loop: Any = runner.train_loop
        counts = loop.total_counts()
        if counts['skipped'] and not counts['samples']:
            raise UnusableRunError(
                'not one sample of the run could be used, '
                f'{counts["skipped"]} were skipped; see the warnings above '
                'and check the paths of the data.'
            )

    def before_save_checkpoint(
        self, runner: Runner, checkpoint: dict[str, Any]
    ) -> None:
        """Refuse to save weights that are not finite.

        Raises:
            UnusableRunError: A weight is NaN or infinite.
        """
        for name, tensor in checkpoint['state_dict'].items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise UnusableRunError(
                    f'{name} is no longer finite at iteration '
                    f'{runner.iter + 1}, so no checkpoint is saved; resume '
                    'from the last one with a lower learning rate or bf16.'
                )

    def after_train(self, runner: Runner) -> None:
        """Log how many samples were skipped and answers truncated."""
        loop: Any = runner.train_loop
        counts = loop.total_counts()
        runner.logger.info(
            f'{runner.iter} iterations done; {counts["skipped"]} samples were '
            f'skipped (unreadable or too long), {counts["truncated"]} answers '
            'were cut at max_text_length and lost their end symbol.'
        )
        dataset = getattr(loop.dataloader, 'dataset', None)
        own = getattr(dataset, 'error_counts', {})
        totals: Counter[str] = Counter()
        for counts_of_rank in all_gather_object(own):
            totals.update(counts_of_rank)
        if totals:
            runner.logger.info(
                'errors in the data that were read in this run, with the '
                'samples that data workers read ahead: '
                + '; '.join(f'{kind}: {n:,}' for kind, n in totals.items())
            )
        sizes = all_gather_object(getattr(dataset, 'bytes_read', 0))
        if any(sizes):
            runner.logger.info(
                f'{sum(sizes):,} bytes of shards were read in this run, at '
                f'most {max(sizes):,} by a rank.'
            )
