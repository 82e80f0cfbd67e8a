# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The protocols with questions or captions as metrics of ``tools/test.py``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.evaluator import BaseMetric

from ..registry import METRICS
from .caption_protocols import read_caption_protocol
from .question_protocols import get_question_protocol


@METRICS.register_module()
class QuestionMetric(BaseMetric):
    """Scores from 0 to 1 of generated answers, by the rules of a protocol.

    They are those of ``minigpt4 eval PROTOCOL``, without intervals.

    Args:
        protocol: Name of the protocol, such as ``'pope'``; also the prefix
            of the scores.
        scoring: Scoring options of the protocol, such as
            ``dict(parser='first-word')``.
        collect_device: Where results of ranks are collected: ``'cpu'`` or
            ``'gpu'``.

    Raises:
        ValueError: There is no such protocol or option.
    """

    def __init__(
        self,
        protocol: str,
        scoring: dict[str, Any] | None = None,
        collect_device: str = 'cpu',
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=protocol)
        self.protocol = get_question_protocol(protocol)
        self.scoring = {**self.protocol.scoring, **(scoring or {})}
        if unknown := sorted({*self.scoring} - {*self.protocol.scoring}):
            raise ValueError(
                f'{protocol} has no scoring option {unknown[0]}; expected '
                f'{", ".join(self.protocol.scoring) or "none"}.'
            )

    def process(
        self, data_batch: object, data_samples: Sequence[dict]
    ) -> None:
        """Store what is scored of each answer."""
        for sample in data_samples:
            row = {key: sample[key] for key in ('image', 'truth')}
            row['answer'] = sample['pred_caption']
            if 'choices' in sample:
                row['choices'] = sample['choices']
            self.results.append(row)

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """Score all answers."""
        return _values(self.protocol.score(results, self.scoring, 1))


@METRICS.register_module()
class CaptionMetric(BaseMetric):
    """Scores of generated captions: ``chair`` or ``captions``.

    They are those of ``minigpt4 eval PROTOCOL``, without intervals.

    Args:
        protocol: ``'chair'`` or ``'captions'``; also the prefix of the
            scores.
        annotations: The file that describes the images, as for
            :class:`~.caption_dataset.CaptionDataset`.
        collect_device: Where results of ranks are collected: ``'cpu'`` or
            ``'gpu'``.

    Raises:
        ValueError: There is no such protocol, or the file is invalid.
        OSError: The file cannot be read.
    """

    def __init__(
        self, protocol: str, annotations: str, collect_device: str = 'cpu'
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=protocol)
        self.protocol = read_caption_protocol(protocol, Path(annotations))

    def process(
        self, data_batch: object, data_samples: Sequence[dict]
    ) -> None:
        """Store what is scored of each caption."""
        for sample in data_samples:
            self.results.append(
                dict(
                    image_id=sample['image_id'],
                    caption=sample['pred_caption'],
                    finished=sample['finished'],
                )
            )

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """Score all captions.

        Raises:
            ValueError: There is no caption.
        """
        return _values(self.protocol.score(results))


def _values(summary: Mapping[str, Any]) -> dict[str, float]:
    """The scores that are defined, without intervals."""
    return {
        name: score['value']
        for name, score in summary['scores'].items()
        if score['value'] is not None
    }
