# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""What a protocol states about its stored results, to compare two of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from .image_sums import Scores

Rows = list[dict[str, Any]]


class Sample(NamedTuple):
    """What one result has for one sample.

    Attributes:
        key: The same text for the same sample of another result.
        image: Name of its image.
        file: Name of the image file; '' if it is not known.
        asked: What both results must have in common: the question and its
            true answer, the classes in the image, or the captions.
        counts: Counts from whose sums the scores are computed.
        good: Whether it is right, in the words of the protocol; None if the
            protocol does not tell.
        differs: What has to be equal for the results not to differ.
        prompt: The question, or '' if there is none.
        truth: The true answer, as a text; '' if there is none.
        text: The answer or the caption.
        note: What is measured of it, as a text.
    """

    key: str
    image: str
    file: str
    asked: Any
    counts: dict[str, float]
    good: bool | None
    differs: Any
    prompt: str
    truth: str
    text: str
    note: str


class StoredFile(NamedTuple):
    """A file of the result folder that the samples need besides the rows.

    Attributes:
        name: Its name.
        missing: What it has and how it is made, for the error without it.
        read: Its content by the key of a sample.
        without: What a row lacks that the file does not have, for a count.
        by_image: Whether its keys are ids of images, of which rows may have
            other forms (:class:`~minigpt4.images.image_ids.ImageIds`).
    """

    name: str
    missing: str
    read: Callable[[Path], Mapping[str, Any]]
    without: str
    by_image: bool = False


def stored_scoring(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The scoring options of a summary.

    Raises:
        TypeError: They are no object.
    """
    scoring = summary.get('scoring', {})
    if not isinstance(scoring, dict):
        raise TypeError('scoring is no object')
    return scoring


@dataclass(frozen=True)
class ComparedProtocol:
    """How results of a protocol are compared.

    Attributes:
        files: Pattern of the files of raw results.
        sample: The sample of a row, with the settings, the scoring options
            and the content of :attr:`stored`; None if the row is not scored.
        scores: How each score is computed from sums of counts, for all rows.
        labels: Label, name and unit of each score.
        changed: What it means that a sample differs.
        distance: How much two samples differ; 0 if they do not.
        unit: What a sample is, in the plural.
        good: What it means that a sample is good; '' if none is.
        number: The number of samples that a summary states; None for the
            field of the name ``unit``.
        stored: Another file that the samples need.
        row_key: The field by which rows are unique; '' if all rows count.
        scoring: The scoring options of a summary.
        together: The samples with what depends on all samples that are
            compared; None if nothing does.
    """

    files: str
    sample: Callable[..., Sample | None]
    scores: Callable[[Rows], Scores]
    labels: tuple[tuple[str, str, str], ...]
    changed: str
    distance: Callable[[Sample, Sample], float]
    unit: str
    good: str = ''
    number: Callable[[Mapping[str, Any]], Any] | None = None
    stored: StoredFile | None = None
    row_key: str = ''
    scoring: Callable[[Mapping[str, Any]], dict[str, Any]] = stored_scoring
    together: Callable[[list[Sample]], list[Sample]] | None = None
