# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Caption a few images during a training."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.registry import DATASETS
from mmengine.runner import Runner

from ...datasets import ImageTextPairs
from ...images.captioned_figure import captioned, file_name
from ...prompts import Turn
from ...registry import HOOKS
from ...utils.errors import printable
from ..ranks import unwrapped_model


@HOOKS.register_module()
class SampleCaptionsHook(Hook):
    """Log generated captions of the same images at regular intervals.

    The captions are written to the log, and as images with captions to every
    visualization backend. A sample whose prompt does not fit into the LLM's
    context is reported and skipped.

    Args:
        dataset: Config of the data set whose first samples are captioned; by
            default the training data. Without a ``type`` it changes
            settings of the training data, e.g. ``data_root`` and
            ``ann_file``.
        num_samples: Number of samples.
        interval: Iterations between two logs of captions.
        max_new_tokens: Maximum number of tokens of a caption.
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

    def before_train(self, runner: Runner) -> None:
        """Load the samples: what is wrong with them shows before step 1."""
        self._samples = self._load_samples(runner)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Mapping[str, Any] | None = None,
    ) -> None:
        """Caption the samples on all ranks, whose layers may be sharded."""
        if not self._samples or not (
            self.every_n_train_iters(runner, self.interval)
            or self.is_last_train_iter(runner)
        ):
            return
        model = unwrapped_model(runner)
        model.eval()
        answers = model.generate(
            self._samples, max_new_tokens=self.max_new_tokens
        )
        model.train()
        step = runner.iter + 1
        lines = [f'captions at iteration {step}:']
        for sample, answer in zip(self._samples, answers, strict=True):
            name = str(sample.get('id'))
            lines.append(f'  {printable(name)}: {answer.text!r}')
            if sample.images and sample.images[0].dtype == torch.uint8:
                runner.visualizer.add_image(
                    f'caption_{file_name(name)}',
                    captioned(sample.images[0], answer.text),
                    step=step,
                )
        runner.logger.info('\n'.join(lines))

    def _load_samples(self, runner: Runner) -> list:
        """Load the first readable samples, without their last answer.

        They are the same on all ranks.
        """
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
            question = sample.turns[-1].question
            sample.turns = [*sample.turns[:-1], Turn(question)]
        collator = unwrapped_model(runner).collator(
            training=False, max_new_tokens=self.max_new_tokens
        )
        return [
            s
            for s in samples
            if collator.is_within_limit(s, collator.tokenize(s))
        ]
