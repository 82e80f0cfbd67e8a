# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Run of ``minigpt4 eval failures``."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..images.image_ids import ImageIds, image_id
from ..loading import quiet_logs
from ..utils.errors import printable
from ..utils.signals import raise_on_signals
from .chair_run import read_truth
from .failures import (
    GENERATION,
    KINDS,
    PROMPTS,
    PUBLISHED,
    sample_images,
    score_failures,
)
from .generated_answers import (
    ANSWERS_FILE,
    AskedImage,
    answer_errors,
    folder_images,
    generate_answers,
    model_settings,
    print_errors,
)
from .result_folder import ResultFolder, format_score

_NOTE = 'what was answered is kept, and the same command continues'


def run_failures(args: argparse.Namespace) -> int:
    """Answer both prompts about the images and print the rates.

    Args:
        args: The options of ``minigpt4 eval failures``.

    Returns:
        0; 1 if an image could not be answered about.

    Raises:
        ValueError: A file, an option or the result folder is invalid.
        OSError: A file cannot be read or written.
        ModelFailureError: The model fails on every request.
    """
    with raise_on_signals(_NOTE), quiet_logs(not args.quiet):
        truth = None if args.truth is None else read_truth(args.truth)
        files = sample_images(
            folder_images(args.images), args.count, args.image_seed
        )
        asked = _asked(files, truth)
        settings = model_settings(args, asked, GENERATION)
        with ResultFolder(
            args.out, 'failures', settings, ANSWERS_FILE, args.overwrite
        ) as results:
            generate_answers(args, asked, results)
            summary = failures_summary(results.rows)
            results.write_summary(summary)
        print_failures(summary, args.out)
    return 1 if summary['errors'] else 0


def failures_summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Scores of stored answers, with the published figures.

    Raises:
        ValueError: There is no answer.
    """
    published = {
        group: dict(before=before / 100, after=after / 100)
        for group, (before, after) in PUBLISHED.items()
    }
    return dict(
        **score_failures(rows),
        published=published,
        errors=answer_errors(rows),
    )


def print_failures(summary: Mapping[str, Any], folder: Path) -> None:
    """Print the rates."""
    print_errors(summary['errors'])
    print(
        f'failures: {summary["answers"]:,} answers about '
        f'{summary["images"]:,} images; 95 % intervals of Wilson'
    )
    for group, scores in summary['scores'].items():
        before, after = PUBLISHED[group]
        print(f'{group}: {PROMPTS[group]}')
        for kind in (*KINDS, 'any'):
            print(f'  {kind:12}{format_score(scores[kind], "%")}')
        print(
            f'  published   {before} % before stage 2, {after} % after it, '
            'counted by people'
        )
    name = printable(str(folder))
    print(
        f'results: {name}; to mark the answers: minigpt4 eval marks {name}',
        file=sys.stderr,
    )


def _asked(
    files: Sequence[str], truth: Mapping[str, list[str]] | None
) -> list[AskedImage]:
    asked = []
    ids = ImageIds(truth or ())
    for group, prompt in PROMPTS.items():
        for file in files:
            id_ = ids.find(file) or image_id(file, ())
            fields: dict[str, Any] = dict(group=group, image_id=id_)
            if truth is not None and id_ in truth:
                fields['truth'] = truth[id_]
            asked.append(AskedImage(file, prompt, fields))
    return asked
