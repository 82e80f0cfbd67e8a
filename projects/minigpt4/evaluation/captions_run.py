# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Run of ``minigpt4 eval captions``: captions compared with references."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from ..loading import quiet_logs
from ..utils.errors import printable, short_json
from ..utils.signals import raise_on_signals
from .caption_metrics import score_caption_metrics
from .caption_references import CaptionReferences
from .caption_source import CaptionSource, print_errors
from .result_folder import ResultFolder, format_score
from .unknown_ids import NAMED_IDS, name_unknown

_NAMED = 5  # invalid records on the terminal
_SCORES = (
    ('BLEU-1', 'bleu_1'),
    ('BLEU-2', 'bleu_2'),
    ('BLEU-3', 'bleu_3'),
    ('BLEU-4', 'bleu_4'),
    ('ROUGE-L', 'rouge_l'),
    ('CIDEr', 'cider'),
)


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
            args.out, 'captions', settings, 'captions.jsonl', args.overwrite
        ) as results:
            source.add_missing(results)
            summary = _score(args, results.rows, references)
            results.write_summary(summary | source.notes)
        _print_summary(args, references.invalid, summary)
    return 1 if summary['errors'] else 0


def _score(
    args: argparse.Namespace,
    rows: Sequence[dict[str, Any]],
    references: CaptionReferences,
) -> dict[str, Any]:
    """The summary of the rows."""
    captions: dict[str, str] = {}
    errors = []
    unknown: list[str] = []
    for row in rows:
        if row.get('error') is not None:
            errors.append(row)
            continue
        key = references.find(row['image_id'])
        if key is None:
            unknown.append(str(row['image_id']))
            continue
        if key in captions:
            raise ValueError(
                f'{args.captions} has two captions of image '
                f'{printable(str(row["image_id"]))} '
                f'({short_json(captions[key])} and '
                f'{short_json(row["caption"])}); expected one of each image.'
            )
        captions[key] = row['caption']
    if not captions:
        found = len(rows) - len(errors)
        raise ValueError(
            f'{args.annotations} has references of none of the {found:,} '
            f'captions{name_unknown(unknown, references.captions)}; expected '
            'the same image ids in both.'
        )
    return dict(
        **score_caption_metrics(
            captions, references.captions, resamples=args.bootstrap
        ),
        resamples=args.bootstrap,
        without_references=len(unknown),
        unknown_ids=unknown[:NAMED_IDS],
        known_id=next(iter(references.captions)),
        without_caption=len(references.captions) - len(captions),
        invalid_records=len(references.invalid),
        errors=errors,
    )


def _print_summary(
    args: argparse.Namespace, invalid: Sequence[str], summary: dict[str, Any]
) -> None:
    print_errors(summary['errors'])
    for message in invalid[:_NAMED]:
        print(f'skipped: {printable(message)}', file=sys.stderr)
    if len(invalid) > _NAMED:
        print(f'skipped: {len(invalid) - _NAMED:,} more', file=sys.stderr)
    if summary['without_references']:
        print(
            f'skipped: {summary["without_references"]:,} captions of images '
            f'that {printable(str(args.annotations))} does not have'
            + name_unknown(summary['unknown_ids'], [summary['known_id']]),
            file=sys.stderr,
        )
    if summary['without_caption']:
        print(
            f'not scored: {summary["without_caption"]:,} images of '
            f'{printable(str(args.annotations))} without a caption',
            file=sys.stderr,
        )
    print(
        f'{summary["captions"]:,} captions, {summary["references"]:,} '
        f'references, {summary["words"]:.1f} words a caption; 95 % intervals '
        'over images'
    )
    for label, name in _SCORES:
        print(f'{label:9}{format_score(summary["scores"][name])}')
    if args.out is not None:
        print(f'results: {printable(str(args.out))}', file=sys.stderr)
