# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Count the records of a test that were scored, and those that were not."""

from collections.abc import Sequence
from typing import Any

from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.runner import Runner

SCORED, SKIPPED = 'scored_records', 'skipped_records'


class ScoredRecordsHook(Hook):
    """Adds two numbers to the scores of a test, whatever its metrics are.

    ``scored_records`` were answered and given to the metrics;
    ``skipped_records`` were not, because the record or an image of it cannot
    be used, or because its prompt is too long. With several ranks a record
    that two of them read counts twice as skipped.
    """

    priority = 'NORMAL'  # before the log of the scores

    def before_test_epoch(self, runner: Runner) -> None:
        """Begin with none."""
        self._scored = self._skipped = 0

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence | None = None,
    ) -> None:
        """Count those of a batch."""
        number = len(outputs or ())
        self._scored += number
        if isinstance(data_batch, list):  # not collated
            self._skipped += len(data_batch) - number

    def after_test_epoch(
        self, runner: Runner, metrics: dict[str, float] | None = None
    ) -> None:
        """Add the numbers of all ranks to the scores."""
        counts = all_gather_object((self._scored, self._skipped))
        scored, skipped = map(sum, zip(*counts, strict=True))
        dataset: Any = runner.test_dataloader.dataset
        total = len(dataset)
        # the ranks read equally many, so some records may be read twice
        scored = min(scored, total)
        skipped = max(skipped, total - scored)
        skipped += getattr(dataset, 'num_omitted', 0)
        if metrics is not None:
            metrics |= {SCORED: scored, SKIPPED: skipped}
