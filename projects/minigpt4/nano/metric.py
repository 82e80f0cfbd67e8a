# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Score answers about held-out scenes of the nano world."""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from mmengine.evaluator import BaseMetric

from ..registry import METRICS
from ..utils.atomic import write_atomically
from . import grammar
from .world import Scene


@METRICS.register_module()
class NanoMetric(BaseMetric):
    """Rates from 0 to 1 of the answers to ``test.json``.

    - ``describe_exact``, ``poem``, ``count``, ``color``, ``place``: answers
      equal to the reference;
    - ``recall``: shapes of the scenes that descriptions name with size and
      colour; ``chair_i``: named shapes that do not exist, or were named
      before (Rohrbach et al. 2018, of instances);
    - ``describe_failures``, ``poem_failures``: unfinished, repeated,
      fragmented or malformed answers (the paper's table 3; see
      :func:`.grammar.failure`);
    - ``describe_irrelevant``, ``poem_irrelevant``: answers that name no
      shape of the scene with its colour, well formed or not;
    - ``describe_words``: mean number of words of the descriptions.

    A score without anything that it counts is absent: all of a task without
    an answer, and ``chair_i`` where no description names a shape.

    Args:
        answers_file: A JSON Lines file for all answers; None for no file.
        **kwargs: Arguments of MMEngine's ``BaseMetric``.
    """

    default_prefix = 'nano'

    def __init__(self, answers_file: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._answers_file = answers_file

    def process(
        self, data_batch: object, data_samples: Sequence[dict]
    ) -> None:
        """Store the fields of each answer that are scored."""
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
            ValueError: There is no answer.
        """
        if not results:
            raise ValueError(
                'no answer was scored; expected the records of '
                'a nano test.json.'
            )
        if self._answers_file is not None:
            lines = (json.dumps(result) + '\n' for result in results)
            write_atomically(self._answers_file, ''.join(lines).encode())
        matches: defaultdict[str, list] = defaultdict(list)
        words: list[int] = []
        found = named = total = invented = 0
        for result in results:
            task, text = result['task'], result['pred_caption']
            key = 'describe_exact' if task == 'describe' else task
            matches[key].append(text == result['answer'])
            scene = Scene.from_dict(result['scene'])
            if task in ('describe', 'poem'):
                kind = grammar.failure(task, text, result['finished'])
                matches[f'{task}_failures'].append(kind is not None)
                relevant = grammar.is_relevant(text, scene)
                matches[f'{task}_irrelevant'].append(not relevant)
            if task == 'describe':
                words.append(len(text.split()))
                reference = Counter(grammar.name(t) for t in scene.things)
                answered = Counter(grammar.mentioned(text))
                total += reference.total()
                named += answered.total()
                found += (reference & answered).total()
                invented += (answered - reference).total()
        scores = {key: sum(x) / len(x) for key, x in sorted(matches.items())}
        if words:
            scores['recall'] = found / total
            scores['describe_words'] = sum(words) / len(words)
        if named:
            scores['chair_i'] = invented / named
        return {key: round(value, 4) for key, value in scores.items()}
