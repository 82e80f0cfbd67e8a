# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Score the stored results of a folder again, without a model."""

import contextlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..utils.errors import printable
from ..utils.json_files import read_json, read_json_lines
from .question_protocols import QUESTION_PROTOCOLS
from .question_scores import (
    print_question_scores,
    question_summary,
    read_answers,
)
from .result_folder import (
    SUMMARY_FILE,
    read_settings,
    write_summary,
)


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
    if name in _RESCORED:
        try:
            return _RESCORED[name](folder, settings, scoring, resamples)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f'a line of the results in {folder} is damaged '
                f'({type(error).__name__}: {printable(str(error))[:80]}); '
                'remove it, and run the command of the folder again.'
            ) from error
    if name not in QUESTION_PROTOCOLS:
        raise ValueError(
            f'{folder} has results of {name}; --score is for '
            f'{", ".join([*QUESTION_PROTOCOLS, *_RESCORED])}. The command '
            'that made them scores them again.'
        )
    protocol = QUESTION_PROTOCOLS[name]
    summary = question_summary(
        protocol, read_answers(folder), settings, scoring, resamples
    )
    if not summary['missing']:
        summary |= _kept(folder, 'image_folder')
        write_summary(folder, name, settings, summary)
    print_question_scores(protocol, summary, folder=folder)
    return 1 if summary['errors'] or summary['missing'] else 0


def _score_chair(
    folder: Path,
    settings: dict[str, Any],
    _: Mapping[str, Any],
    resamples: int,
) -> int:
    # here and below: only what the protocol of the folder needs
    from .chair_run import chair_summary, print_chair, read_truth
    from .chair_truth import TRUTH_FILE
    from .chair_variants import score_variants

    rows = [row for _, row in read_json_lines(folder / 'captions.jsonl')]
    truth = read_truth(_stored(folder, TRUTH_FILE), part=True)
    summary = chair_summary(rows, truth, resamples)
    kept = _kept(folder, 'image_folder', 'variants')
    if variants := kept.pop('variants', None):
        summary['variants'] = score_variants(
            [row for row in rows if row.get('error') is None], truth, {}
        )
        again = {row['name'] for row in summary['variants']}
        if others := [v['name'] for v in variants if v['name'] not in again]:
            print(
                printable(f'not scored again: {"; ".join(others)}')
                + ', whose file the folder does not have; the command that '
                'made the folder scores it',
                file=sys.stderr,
            )
    write_summary(folder, 'chair', settings, summary | kept)
    print_chair(summary, folder)
    return 1 if summary['errors'] else 0


def _score_captions(
    folder: Path,
    settings: dict[str, Any],
    _: Mapping[str, Any],
    resamples: int,
) -> int:
    from .caption_references import REFERENCES_FILE, read_references
    from .captions_run import CAPTIONS_FILE, captions_summary, print_captions

    path = folder / CAPTIONS_FILE
    summary = captions_summary(
        [row for _, row in read_json_lines(path)],
        read_references(_stored(folder, REFERENCES_FILE)),
        resamples,
        path,
        folder / REFERENCES_FILE,
    )
    summary |= _kept(
        folder,
        'without_caption',
        'invalid_records',
        'image_folder',
    )
    write_summary(folder, 'captions', settings, summary)
    print_captions(summary, folder)
    return 1 if summary['errors'] else 0


def _score_match(
    folder: Path,
    settings: dict[str, Any],
    _: Mapping[str, Any],
    resamples: int,
) -> int:
    from .match_run import match_summary, print_match

    rows = [row for _, row in read_json_lines(folder / 'losses.jsonl')]
    summary = match_summary(rows, settings['seed'], resamples)
    summary |= _kept(folder, 'invalid_records', 'images_without_caption')
    write_summary(folder, 'match', settings, summary)
    print_match(summary, folder)
    return 0


def _score_coverage(
    folder: Path,
    settings: dict[str, Any],
    scoring: Mapping[str, Any],
    resamples: int,
) -> int:
    from .coverage_run import coverage_summary, print_coverage
    from .judge import JUDGEMENTS_FILE

    rows = [row for _, row in read_json_lines(folder / JUDGEMENTS_FILE)]
    summary = coverage_summary(rows, scoring.get('parser', 'first-word'))
    summary |= _kept(folder, 'without_reference', 'failed_captions')
    write_summary(folder, 'coverage', settings, summary)
    print_coverage(summary, folder)
    return 1 if summary['errors'] else 0


def _stored(folder: Path, name: str) -> Path:
    """A file that the run of a folder stores next to its results.

    Raises:
        ValueError: It does not exist.
    """
    path = folder / name
    if not path.exists():
        raise ValueError(
            f'{folder} has no {name}, which scores need; the command that '
            'made the folder writes it, without captioning again.'
        )
    return path


def _kept(folder: Path, *names: str) -> dict[str, Any]:
    """What only the run knows, of the stored summary.

    Without such a summary it is named on the terminal as missing.
    """
    path = folder / SUMMARY_FILE
    stored = None
    if path.is_file():
        with contextlib.suppress(ValueError):
            stored = read_json(path, 'a summary')
    if isinstance(stored, dict):
        return {name: stored[name] for name in names if name in stored}
    found = 'no summary' if path.is_file() else f'no {SUMMARY_FILE}'
    print(
        printable(f'not scored again: {", ".join(names)}; {folder} has ')
        + f'{found} of its run, and the command that made it writes them',
        file=sys.stderr,
    )
    return {}


def _score_failures(
    folder: Path,
    settings: dict[str, Any],
    scoring: Mapping[str, Any],
    resamples: int,
) -> int:
    from .failures_run import failures_summary, print_failures
    from .generated_answers import ANSWERS_FILE, read_rows

    summary = failures_summary(read_rows(folder, ANSWERS_FILE))
    write_summary(folder, 'failures', settings, summary)
    print_failures(summary, folder)
    return 1 if summary['errors'] else 0


def _score_abilities(
    folder: Path,
    settings: dict[str, Any],
    scoring: Mapping[str, Any],
    resamples: int,
) -> int:
    from .abilities_run import abilities_summary, print_abilities
    from .generated_answers import ANSWERS_FILE, read_rows
    from .judge import JUDGEMENTS_FILE

    judgements = []
    path = folder / JUDGEMENTS_FILE
    if path.is_file():
        judgements = [row for _, row in read_json_lines(path)]
    summary = abilities_summary(
        read_rows(folder, ANSWERS_FILE),
        judgements,
        scoring.get('parser', 'first-word'),
    )
    write_summary(folder, 'abilities', settings, summary)
    print_abilities(summary, folder)
    return 1 if summary['errors'] else 0


_RESCORED = {
    'chair': _score_chair,
    'captions': _score_captions,
    'match': _score_match,
    'coverage': _score_coverage,
    'failures': _score_failures,
    'abilities': _score_abilities,
}
