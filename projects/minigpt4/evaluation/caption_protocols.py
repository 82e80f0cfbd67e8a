# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The protocols that score captions, by name, for ``tools/test.py``."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..images.image_ids import ImageIds
from .caption_references import CaptionReferences
from .captions_run import captions_summary
from .chair_run import chair_summary, read_truth


class CaptionProtocol(NamedTuple):
    """A protocol, with the file that describes the images.

    Attributes:
        find: The id of an image file, or None if it is not described.
        score: The summary of captions, rows of ``image_id`` and ``caption``;
            its intervals are of one draw alone.
    """

    find: Callable[[str], str | None]
    score: Callable[[Sequence[dict[str, Any]]], dict[str, Any]]


def read_caption_protocol(name: str, annotations: Path) -> CaptionProtocol:
    """Read what describes the images of a protocol.

    Args:
        name: ``'chair'`` or ``'captions'``.
        annotations: ``chair``: the classes in each image, the ``--truth`` of
            ``minigpt4 eval``; ``captions``: the reference captions, its
            ``--annotations``.

    Raises:
        ValueError: There is no such protocol, or the file is invalid.
        OSError: The file cannot be read.
    """
    if name == 'chair':
        truth = read_truth(annotations)
        return CaptionProtocol(
            ImageIds(truth).find,
            lambda rows: chair_summary(rows, truth, 1),
        )
    if name == 'captions':
        references = CaptionReferences(annotations)
        return CaptionProtocol(
            references.find_file,
            lambda rows: captions_summary(
                rows,
                references.of_rows(rows),
                1,
                'the test',
                annotations,
                references.captions,
            ),
        )
    raise ValueError(f'protocol is {name!r}; expected chair or captions.')
