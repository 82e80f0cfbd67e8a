# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Functions of the tasks that :mod:`~.task_files` writes for lmms-eval.

The YAML files name them. A document has the path of its photograph, so the
tasks also work with the other models of lmms-eval.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from PIL import Image

from ..evaluation.chair import score_captions
from ..images.read import read_image
from .yes_no import read_answer, yes_no_scores

_CHAIR = ('chair_i', 'chair_s')
_YES_NO = ('accuracy', 'precision', 'recall', 'f1', 'yes_ratio')


def doc_to_visual(doc: Mapping[str, Any]) -> list[Image.Image]:
    """Read the photograph of a document."""
    return [read_image(doc['photo'])]


def caption_results(
    doc: Mapping[str, Any], results: Sequence[str]
) -> dict[str, Any]:
    """Return what the scores of CHAIR need of one caption."""
    row = dict(
        image_id=doc['image_id'],
        caption=results[0],
        classes=list(doc['classes']),
    )
    return dict.fromkeys(_CHAIR, row)


def yes_no_results(
    doc: Mapping[str, Any], results: Sequence[str]
) -> dict[str, Any]:
    """Return the right and the given answer of one question."""
    pair = [doc['answer'], read_answer(results[0])]
    return dict.fromkeys(_YES_NO, pair)


def _chair(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    truth = {str(row['image_id']): row['classes'] for row in rows}
    scores = score_captions(rows, truth, resamples=1)['scores']
    return scores[name]['value']


def _yes_no(answers: Sequence[Sequence[str]], name: str) -> float:
    return yes_no_scores([(right, given) for right, given in answers])[name]


chair_i = partial(_chair, name='chair_i')
chair_s = partial(_chair, name='chair_s')
accuracy = partial(_yes_no, name='accuracy')
precision = partial(_yes_no, name='precision')
recall = partial(_yes_no, name='recall')
f1 = partial(_yes_no, name='f1')
yes_ratio = partial(_yes_no, name='yes_ratio')
