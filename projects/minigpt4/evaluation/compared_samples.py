# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Samples of stored results, as ``minigpt4 compare`` compares them.

The counts are those from which the summary of a result is computed.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from typing import Any

from . import chair, match
from .chair_run import read_truth
from .chair_truth import TRUTH_FILE
from .compared_answers import ABILITIES, COVERAGE, FAILURES
from .compared_captions import CAPTIONS
from .compared_protocol import (
    ComparedProtocol,
    Sample,
    StoredFile,
    stored_scoring,
)
from .object_words import coco_words
from .question_protocols import QUESTION_PROTOCOLS
from .questions import likeliest


def compared_protocol(name: str) -> ComparedProtocol:
    """How results of a protocol are compared.

    Raises:
        ValueError: They cannot be compared.
    """
    if name in QUESTION_PROTOCOLS:
        return _questions(name)
    if name not in _PROTOCOLS:
        names = ', '.join([*QUESTION_PROTOCOLS, *_PROTOCOLS])
        raise ValueError(
            f'results of {name} cannot be compared; expected one of {names}.'
        )
    return _PROTOCOLS[name]


def _questions(name: str) -> ComparedProtocol:
    protocol = QUESTION_PROTOCOLS[name]

    def sample(
        row: Mapping[str, Any],
        settings: Mapping[str, Any],
        scoring: Mapping[str, Any],
        _: Mapping[str, Any],
    ) -> Sample:
        counts = protocol.counts(row, {**protocol.scoring, **scoring})
        choices = row.get('choices') or []
        question = asked_question(row['prompt'], settings['prompt'], choices)
        truth = row['truth']
        values = [
            _in_words(choices[v] if k == 'index' else v)
            for k, v in truth.items()
        ]
        if 'log_likelihoods' in row:
            text = likeliest(row)
            note = ', '.join(
                f'{choice} {value:.3f}'
                for choice, value in zip(
                    choices, row['log_likelihoods'], strict=True
                )
            )
        else:
            text, note = row['answer'], ''
        right = counts['correct']
        mark = 'right' if right >= 0.5 else 'wrong'
        if right not in (0, 1):
            mark += f', accuracy {right:.2f}'
        return Sample(
            key=str(row['id']),
            image=str(row['image']),
            file=row['file'],
            asked=[question, str(row['image']), truth, choices],
            counts=counts,
            good=right >= 0.5,
            differs=right,
            prompt=row['prompt'],
            truth=', '.join(values),
            text=text,
            note=f'{mark}; {note}' if note else mark,
        )

    return ComparedProtocol(
        files='answers*.jsonl',
        sample=sample,
        scores=lambda rows: protocol.ratios,
        labels=protocol.labels,
        good='right',
        changed='answers of which one is right, or more nearly right',
        distance=lambda one, two: abs(one.differs - two.differs),
        unit='answers',
        row_key='number',
        # options of later versions have their defaults in older folders
        scoring=lambda summary: {
            **protocol.scoring,
            **stored_scoring(summary),
        },
    )


def asked_question(
    prompt: str, template: str, choices: Collection[str] = ()
) -> str | None:
    """The question in a prompt; None if it is not found.

    Args:
        prompt: The prompt.
        template: What it was made of, with ``{question}``.
        choices: The text for ``{choices}``.
    """
    template = template.replace('{choices}', ', '.join(choices))
    before, _, after = template.partition('{question}')
    end = len(prompt) - len(after)
    if not (prompt.startswith(before) and prompt.endswith(after)):
        return None
    return prompt[len(before) : end] if end >= len(before) else None


def _in_words(value: Any) -> str:
    """A true answer; of several ones each with its number."""
    return _with_numbers(value) if isinstance(value, list) else str(value)


def _with_numbers(texts: Iterable[Any]) -> str:
    numbers = Counter(map(str, texts)).most_common()
    return ', '.join(f'{text} ({number})' for text, number in numbers)


def _caption_sample(
    row: Mapping[str, Any],
    settings: Mapping[str, Any],
    scoring: Mapping[str, Any],
    truth: Mapping[str, Collection[str]],
) -> Sample | None:
    key = str(row['image_id'])
    if key not in truth:
        return None
    counts, invented = chair.count_caption(row, truth[key], coco_words())
    classes = sorted(set(truth[key]))
    return Sample(
        key=key,
        image=key,
        file=row.get('file', ''),
        asked=classes,
        counts=counts,
        good=not invented,
        differs=Counter(invented),
        prompt=row.get('prompt', ''),
        truth=', '.join(classes) or 'no object',
        text=row['caption'],
        note='invented: ' + (_with_numbers(invented) or 'nothing'),
    )


def _loss_sample(
    row: Mapping[str, Any],
    settings: Mapping[str, Any],
    scoring: Mapping[str, Any],
    _: Mapping[str, Any],
) -> Sample:
    counts = match.count_losses(row)
    return Sample(
        key=f'{row["image"]}, caption {row["id"]}',
        image=row['image'],
        file=row['image'],
        asked=row['caption'],
        counts=counts,
        good=counts['preferred'] == 1,
        differs=counts['preferred'],
        prompt='',
        truth=row['caption'],
        text=f'loss {row["loss"]:.3f}, with {row["other_image"]} '
        f'{row["other_loss"]:.3f}',
        note=f'difference {counts["gap"]:+.3f}',
    )


def _invented_distance(one: Sample, two: Sample) -> float:
    """Number of invented mentions that only one of two captions has."""
    first, second = one.differs, two.differs
    return ((first - second) + (second - first)).total()


def _preference_distance(one: Sample, two: Sample) -> float:
    """Difference of the gaps of losses, if the preference differs."""
    if one.differs == two.differs:
        return 0
    return math.fabs(one.counts['gap'] - two.counts['gap'])


_PROTOCOLS = {
    'chair': ComparedProtocol(
        files='captions.jsonl',
        sample=_caption_sample,
        scores=chair.chair_ratios,
        labels=chair.LABELS,
        good='without invented object',
        changed='captions whose invented objects differ',
        distance=_invented_distance,
        unit='captions',
        stored=StoredFile(
            name=TRUTH_FILE,
            missing='the classes in each image; the command that made the '
            'folder writes it, without captioning again',
            read=partial(read_truth, part=True),
            without='of images without truth',
            by_image=True,
        ),
    ),
    'match': ComparedProtocol(
        files='losses.jsonl',
        sample=_loss_sample,
        scores=lambda rows: match.RATIOS,
        labels=match.LABELS,
        good='right image preferred',
        changed='captions whose preferred image differs',
        distance=_preference_distance,
        unit='captions',
    ),
    'captions': CAPTIONS,
    'coverage': COVERAGE,
    'failures': FAILURES,
    'abilities': ABILITIES,
}
