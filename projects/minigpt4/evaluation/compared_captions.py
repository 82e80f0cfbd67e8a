# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Samples of stored results of ``captions``, to compare two of them."""

from collections.abc import Mapping
from typing import Any

from .caption_metrics import LABELS, SCORES, caption_counts
from .caption_references import (
    REFERENCES_FILE,
    ImageReferences,
    read_references,
)
from .compared_protocol import ComparedProtocol, Sample, StoredFile

_MOST_CIDER = 10  # the highest CIDEr


def _sample(
    row: Mapping[str, Any],
    settings: Mapping[str, Any],
    scoring: Mapping[str, Any],
    references: Mapping[str, ImageReferences],
) -> Sample | None:
    found = references.get(str(row['image_id']))
    if found is None:
        return None
    if not isinstance(row['caption'], str):
        raise TypeError('caption is no text')
    return Sample(
        key=found.image,
        image=found.image,
        file=row.get('file', ''),
        asked=found.captions,
        counts={},
        good=None,
        differs=None,
        prompt=row.get('prompt', ''),
        truth=' / '.join(found.captions),
        text=row['caption'],
        note='',
    )


def _with_counts(samples: list[Sample]) -> list[Sample]:
    """The samples with their counts: CIDEr depends on all references."""
    all_counts = caption_counts(
        [sample.text for sample in samples],
        [sample.asked for sample in samples],
    )
    return [
        sample._replace(
            counts=counts,
            differs=(counts['rouge_l'], counts['cider']),
            note=f'ROUGE-L {counts["rouge_l"]:.3f}, '
            f'CIDEr {counts["cider"]:.3f}',
        )
        for sample, counts in zip(samples, all_counts, strict=True)
    ]


def _distance(one: Sample, two: Sample) -> float:
    """The larger difference of ROUGE-L and CIDEr, as share of their range."""
    rouge, cider = (
        abs(a - b) for a, b in zip(one.differs, two.differs, strict=True)
    )
    return max(rouge, cider / _MOST_CIDER)


CAPTIONS = ComparedProtocol(
    files='captions.jsonl',
    sample=_sample,
    scores=lambda rows: SCORES,
    labels=LABELS,
    changed='captions whose ROUGE-L or CIDEr differ',
    distance=_distance,
    unit='captions',
    stored=StoredFile(
        name=REFERENCES_FILE,
        missing='the references of each caption; the command that made the '
        'folder writes it, without captioning again',
        read=read_references,
        without='of images without reference',
    ),
    together=_with_counts,
)
