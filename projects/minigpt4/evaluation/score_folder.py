# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Score the stored results of a folder again, without a model."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..utils.regular_files import read_text
from .question_protocols import QUESTION_PROTOCOLS
from .question_scores import (
    print_question_scores,
    question_summary,
    read_answers,
)
from .result_folder import SUMMARY_FILE, read_settings, write_summary


def stored_protocol(folder: Path) -> str:
    """The protocol whose results a folder stores.

    Raises:
        ValueError: The folder has no results of a protocol.
        OSError: Its settings cannot be read.
    """
    return str(read_settings(folder)['protocol'])


def score_folder(
    folder: Path, scoring: Mapping[str, Any], resamples: int
) -> int:
    """Score stored answers, print the scores and store ``summary.json``.

    Args:
        folder: The folder.
        scoring: Scoring options that are not the defaults.
        resamples: Resamples of the bootstrap.

    Returns:
        0; 1 if a question could not be answered, or has no answer yet.

    Raises:
        ValueError: The folder has no answers to questions.
        OSError: A file cannot be read or written.
    """
    settings = read_settings(folder)
    name = settings.pop('protocol')
    if name not in QUESTION_PROTOCOLS:
        raise ValueError(
            f'{folder} has results of {name}; --score is for '
            f'{", ".join(QUESTION_PROTOCOLS)}. The command that made them '
            'scores them again.'
        )
    protocol = QUESTION_PROTOCOLS[name]
    summary = question_summary(
        protocol, read_answers(folder), settings, scoring, resamples
    )
    if not summary['missing']:
        summary |= _place_of_images(folder)
        write_summary(folder, name, settings, summary)
    print_question_scores(protocol, summary, folder=folder)
    return 1 if summary['errors'] or summary['missing'] else 0


def _place_of_images(folder: Path) -> dict[str, str]:
    """The folder of the images in the last scores, for the report."""
    try:
        summary = json.loads(read_text(folder / SUMMARY_FILE))
        return dict(image_folder=str(summary['image_folder']))
    except (OSError, ValueError, KeyError, TypeError):
        return {}
