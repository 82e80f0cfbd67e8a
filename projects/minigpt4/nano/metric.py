# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Scores answers about held-out scenes of the nano world."""

from collections import Counter, defaultdict
from collections.abc import Sequence

from mmengine.evaluator import BaseMetric

from ..registry import METRICS
from . import grammar
from .world import Scene


@METRICS.register_module()
class NanoMetric(BaseMetric):
    """Rates, in 0..1, of the answers to ``test.json``.

    - ``describe_exact``, ``poem``, ``count``, ``color``, ``place``: answers
      equal to the truth;
    - ``recall``: shapes of the scenes that descriptions name with size and
      colour; ``chair_i``: named shapes that are not there (Rohrbach et al.
      2018, of instances);
    - ``describe_failures``, ``poem_failures``: repeated, fragmented,
      irrelevant or unfinished answers (the paper's table 3).
    """

    default_prefix = 'nano'

    def process(self, data_batch, data_samples: Sequence[dict]) -> None:
        """Keep what is scored of each answer."""
        for sample in data_samples:
            self.results.append(
                {
                    key: sample[key]
                    for key in (
                        'id',
                        'task',
                        'answer',
                        'scene',
                        'pred_caption',
                        'finished',
                    )
                }
            )

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """Score all answers.

        Raises:
            ValueError: There is nothing to score.
        """
        if not results:
            raise ValueError(
                'no answer was scored; expected the records of '
                'a nano test.json.'
            )
        right: defaultdict[str, list] = defaultdict(list)
        found = named = true = invented = 0
        for result in results:
            task, text = result['task'], result['pred_caption']
            key = 'describe_exact' if task == 'describe' else task
            right[key].append(text == result['answer'])
            if task in ('describe', 'poem'):
                right[f'{task}_failures'].append(
                    grammar.failure(task, text, result['finished']) is not None
                )
            if task == 'describe':
                scene = Scene.from_dict(result['scene'])
                truth = Counter(grammar.name(t) for t in scene.things)
                said = Counter(grammar.mentioned(text))
                true += truth.total()
                named += said.total()
                found += (truth & said).total()
                invented += (said - truth).total()
        scores = {key: sum(x) / len(x) for key, x in sorted(right.items())}
        scores['recall'] = found / max(true, 1)
        scores['chair_i'] = invented / max(named, 1)
        return {key: round(value, 4) for key, value in scores.items()}
