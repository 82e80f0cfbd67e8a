# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Run of ``minigpt4 eval captions``: captions compared with references."""

import argparse
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..datasets.skip_summary import counted
from ..loading import quiet_logs
from ..utils.errors import printable, short_json
from ..utils.signals import raise_on_signals
from .caption_metrics import LABELS, score_caption_metrics
from .caption_references import (
    REFERENCES_FILE,
    CaptionReferences,
    ImageReferences,
    write_references,
)
from .caption_source import CaptionSource
from .generated_answers import print_errors
from .result_folder import ResultFolder, format_score
from .unknown_ids import NAMED_IDS, name_unknown

CAPTIONS_FILE = 'captions.jsonl'
_NAMED = 5  # invalid records on the terminal


def run_captions(args: argparse.Namespace) -> int:
    """Score given captions, or generate and score them; print the scores.

    Args:
        args: The options of ``minigpt4 eval captions``.

    Returns:
        0; 1 if an image could not be captioned.

    Raises:
        ValueError: A file, an option or the result folder is invalid, or no
            caption has a reference.
        OSError: A file cannot be read or written.
        ModelFailureError: The model fails on every request.
    """
    note = 'what was generated is kept with -o, and the same command continues'
    with raise_on_signals(note), quiet_logs(not args.quiet):
        references = CaptionReferences(args.annotations)
        source = CaptionSource(args, references.find_file, args.annotations)
        settings = dict(references=references.digest(), **source.settings)
        with ResultFolder(
            args.out, 'captions', settings, CAPTIONS_FILE, args.overwrite
        ) as results:
            source.add_missing(results)
            found = references.of_rows(results.rows)
            summary = captions_summary(
                results.rows,
                found,
                args.bootstrap,
                args.captions or CAPTIONS_FILE,
                args.annotations,
                references.captions,
            )
            summary['without_caption'] = (
                len(references.captions) - summary['captions']
            )
            summary['invalid_records'] = len(references.invalid)
            if args.out is not None:
                write_references(args.out, found)
            results.write_summary(summary | source.notes)
        _print_invalid(references.invalid)
        print_captions(summary, args.out, args.annotations)
    return 1 if summary['errors'] else 0


def captions_summary(
    rows: Sequence[dict[str, Any]],
    references: Mapping[str, ImageReferences],
    resamples: int,
    source: Path | str,
    described: Path | str,
    known: Collection[str] = (),
) -> dict[str, Any]:
    """Score the rows of a folder: what its summary stores.

    Args:
        rows: The captions.
        references: The references by the text of ``image_id``.
        resamples: Resamples of the bootstrap.
        source: The file of the captions, for errors.
        described: The file of the references, for errors.
        known: The images of this file, by ids; one of them is named in the
            error if it has references of no caption.

    Raises:
        ValueError: Two captions are of one image, or none has a reference.
    """
    captions: dict[str, str] = {}
    errors = []
    unknown: list[str] = []
    for row in rows:
        if row.get('error') is not None:
            errors.append(row)
            continue
        found = references.get(str(row['image_id']))
        if found is None:
            unknown.append(str(row['image_id']))
            continue
        if found.image in captions:
            raise ValueError(
                f'{source} has two captions of image '
                f'{printable(str(row["image_id"]))} '
                f'({short_json(captions[found.image])} and '
                f'{short_json(row["caption"])}); expected one of each image.'
            )
        captions[found.image] = row['caption']
    if not captions:
        number = len(rows) - len(errors)
        raise ValueError(
            f'{described} has references of none of the {number:,} captions'
            f'{name_unknown(unknown, known)}; expected the same image ids in '
            'both.'
        )
    texts = {found.image: found.captions for found in references.values()}
    return dict(
        **score_caption_metrics(captions, texts, resamples=resamples),
        resamples=resamples,
        without_references=len(unknown),
        unknown_ids=unknown[:NAMED_IDS],
        known_id=next(iter(captions)),
        errors=errors,
    )


def _print_invalid(invalid: Sequence[str]) -> None:
    for message in invalid[:_NAMED]:
        print(f'skipped: {printable(message)}', file=sys.stderr)
    if len(invalid) > _NAMED:
        print(f'skipped: {len(invalid) - _NAMED:,} more', file=sys.stderr)


def print_captions(
    summary: Mapping[str, Any],
    folder: Path | None,
    described: Path | str = REFERENCES_FILE,
) -> None:
    """Print scores, and what was skipped.

    Args:
        summary: The summary.
        folder: The folder of the results; None if there is none.
        described: The file of the references.
    """
    print_errors(summary['errors'])
    if summary['without_references']:
        print(
            f'skipped: {counted(summary["without_references"], "caption")} of '
            f'images that {printable(str(described))} does not have'
            + name_unknown(summary['unknown_ids'], [summary['known_id']]),
            file=sys.stderr,
        )
    if summary.get('without_caption'):
        print(
            f'not scored: {counted(summary["without_caption"], "image")} of '
            f'{printable(str(described))} without a caption',
            file=sys.stderr,
        )
    print(
        f'{summary["captions"]:,} captions, {summary["references"]:,} '
        f'references, {summary["words"]:.1f} words a caption; 95 % intervals '
        'over images'
    )
    for label, name, unit in LABELS:
        print(f'{label:9}{format_score(summary["scores"][name], unit)}')
    if folder is not None:
        print(f'results: {printable(str(folder))}', file=sys.stderr)
