# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Why do two results of one protocol differ? Settings, scores, samples."""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..utils.errors import printable
from .compared_folder import StoredResults
from .compared_protocol import ComparedProtocol, Sample
from .image_sums import ImageSums
from .paired import RESAMPLES, mcnemar, paired_scores


class Pair(NamedTuple):
    """A sample of both results, and how much they differ in it."""

    first: Sample
    second: Sample
    distance: float


@dataclass(frozen=True)
class Comparison:
    """Two results, compared.

    Attributes:
        protocol: How results of the protocol are compared.
        summary: What ``--json`` writes, but for the pairs.
        labels: Label, name and unit of each score that both have.
        pairs: The samples that differ, those that differ most first.
    """

    protocol: ComparedProtocol
    summary: dict[str, Any]
    labels: list[tuple[str, str, str]]
    pairs: list[Pair]

    def to_json(self) -> dict[str, Any]:
        """The summary, and key and distance of each pair."""
        differing = [
            dict(
                id=pair.first.key,
                image=pair.first.image,
                distance=round(pair.distance, 6),
            )
            for pair in self.pairs
        ]
        return dict(**self.summary, differing=differing)


def compare_results(
    first: StoredResults,
    second: StoredResults,
    resamples: int = RESAMPLES,
    advance: Callable[[int], object] = lambda number: None,
) -> Comparison:
    """Compare two results over the samples that both have.

    Args:
        first: One result.
        second: The other result.
        resamples: Resamples of the intervals and the tests.
        advance: As for :func:`~.paired.paired_scores`.

    Raises:
        ValueError: They are of different protocols, of the same folder, have
            no sample in common, or not the same question or truth for one.
    """
    _check(first, second)
    common = [key for key in first.samples if key in second.samples]
    if not common:
        raise ValueError(
            f'{first.folder} and {second.folder} have no sample in common '
            f'(such as {printable(next(iter(first.samples), "none"))} and '
            f'{printable(next(iter(second.samples), "none"))}); expected '
            'results of the same data.'
        )
    protocol = first.protocol
    sides = [[r.samples[key] for key in common] for r in (first, second)]
    for one, two in zip(*sides, strict=True):
        _check_same(first, second, one, two)
    if protocol.together is not None:
        sides = [protocol.together(side) for side in sides]
    sums = ImageSums(), ImageSums()
    pairs = []
    for one, two in zip(*sides, strict=True):
        sums[0].add(one.image, **one.counts)
        sums[1].add(one.image, **two.counts)
        if distance := protocol.distance(one, two):
            pairs.append(Pair(one, two, distance))
    pairs.sort(key=lambda pair: -pair.distance)
    scores = protocol.scores([*first.rows, *second.rows])
    labels = [label for label in protocol.labels if label[1] in scores]
    settings = [
        dict(name=name, first=values[0], second=values[1])
        for name, values in _settings(first, second)
        if values[0] != values[1]
    ]
    return Comparison(
        protocol,
        dict(
            protocol=first.name,
            first=_counts(first, len(common)),
            second=_counts(second, len(common)),
            samples=len(common),
            images=len(sums[0]),
            resamples=resamples,
            settings=settings,
            scores=paired_scores(
                *sums, scores, resamples=resamples, advance=advance
            ),
            good=_good(protocol, *sides),
        ),
        labels,
        pairs,
    )


def _good(
    protocol: ComparedProtocol, first: list[Sample], second: list[Sample]
) -> dict[str, Any] | None:
    """How many samples are good in which results; None if none is good."""
    if not protocol.good:
        return None
    both = Counter(
        (one.good, two.good) for one, two in zip(first, second, strict=True)
    )
    only_first, only_second = both[True, False], both[False, True]
    return dict(
        meaning=protocol.good,
        both=both[True, True],
        only_first=only_first,
        only_second=only_second,
        neither=both[False, False],
        p=mcnemar(only_first, only_second),
    )


def _check(first: StoredResults, second: StoredResults) -> None:
    if os.path.samefile(first.folder, second.folder):
        raise ValueError(
            f'{first.folder} and {second.folder} are the same folder; give '
            'two different ones.'
        )
    if first.name != second.name:
        raise ValueError(
            f'{first.folder} has results of {first.name} and {second.folder} '
            f'of {second.name}; expected two folders of one protocol.'
        )


def _check_same(
    first: StoredResults, second: StoredResults, one: Sample, two: Sample
) -> None:
    """Refuse a sample that is not the same in both results."""
    if one.asked != two.asked:
        raise ValueError(
            f'{printable(one.key)} is not the same in {first.folder} '
            f'({_short(one)}) and in {second.folder} ({_short(two)}): its '
            'image, question, caption, reference or truth differs; expected '
            'results of the same data.'
        )


def _short(sample: Sample) -> str:
    asked = sample.asked
    parts = asked if isinstance(asked, list) else [asked]
    text = '; '.join(map(str, parts))
    return printable(text[:80] + '...' * (len(text) > 80))


def _settings(
    first: StoredResults, second: StoredResults
) -> list[tuple[str, tuple[Any, Any]]]:
    names = dict.fromkeys([*first.settings, *second.settings])
    return [
        (name, (first.settings.get(name), second.settings.get(name)))
        for name in names
    ]


def _counts(results: StoredResults, common: int) -> dict[str, Any]:
    return dict(
        folder=str(results.folder),
        samples=len(results.samples),
        only_here=len(results.samples) - common,
        failed=results.failed,
        without_truth=results.without_truth,
    )
