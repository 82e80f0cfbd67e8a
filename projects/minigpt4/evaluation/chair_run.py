# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Run of ``minigpt4 eval chair``: given or generated captions, and scores."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..datasets.skip_summary import counted
from ..images.image_ids import ImageIds
from ..loading import quiet_logs
from ..utils.errors import printable
from ..utils.json_files import read_json
from ..utils.signals import raise_on_signals
from .caption_source import CaptionSource
from .chair import LABELS, score_captions
from .chair_truth import TRUTH_FILE, coco_truth, write_truth
from .chair_variants import score_variants, variant_table
from .generated_answers import print_errors
from .result_folder import ResultFolder, file_digest, format_score
from .unknown_ids import name_unknown

_NAMED = 5  # invented classes on the terminal


def run_chair(args: argparse.Namespace) -> int:
    """Score given captions, or generate and score them; print the scores.

    Args:
        args: The options of ``minigpt4 eval chair``.

    Returns:
        0; 1 if an image could not be captioned.

    Raises:
        ValueError: A file, an option or the result folder is invalid.
        OSError: A file cannot be read or written.
        ModelFailureError: The model fails on every request.
    """
    note = 'what was generated is kept with -o, and the same command continues'
    with raise_on_signals(note), quiet_logs(not args.quiet):
        truth, truth_settings = _load_truth(args)
        described = args.truth or args.instances[0]
        source = CaptionSource(args, ImageIds(truth).find, described)
        settings = dict(truth=truth_settings, **source.settings)
        with ResultFolder(
            args.out, 'chair', settings, 'captions.jsonl', args.overwrite
        ) as results:
            source.add_missing(results)
            summary = chair_summary(results.rows, truth, args.bootstrap)
            if args.variants:
                summary['variants'] = score_variants(
                    [r for r in results.rows if r.get('error') is None],
                    truth,
                    _other_truths(args),
                )
            if args.out is not None:
                write_truth(args.out, truth, results.rows)
            results.write_summary(summary | source.notes)
        print_chair(summary, args.out, described)
    return 1 if summary['errors'] else 0


def chair_summary(
    rows: Sequence[dict[str, Any]],
    truth: Mapping[str, Sequence[str]],
    resamples: int,
) -> dict[str, Any]:
    """Score the rows of a folder: what its summary stores.

    Raises:
        ValueError: No caption is of an image that the truth has.
    """
    captions = [row for row in rows if row.get('error') is None]
    return dict(
        **score_captions(captions, truth, resamples=resamples),
        resamples=resamples,
        errors=[row for row in rows if row.get('error') is not None],
    )


def _load_truth(
    args: argparse.Namespace,
) -> tuple[dict[str, list[str]], Any]:
    """The classes in each image, and what identifies their files."""
    if args.truth is not None:
        return read_truth(args.truth), file_digest(args.truth)
    captions = args.captions_truth or []
    digests = dict(
        instances=[file_digest(path) for path in args.instances],
        captions=[file_digest(path) for path in captions],
    )
    return coco_truth(args.instances, captions), digests


def _other_truths(args: argparse.Namespace) -> dict[str, Any]:
    """Truths of ``--variants`` besides the given one, by name."""
    truths: dict[str, Any] = {
        printable(path.name): read_truth(path) for path in args.variant_truth
    }
    if args.captions_truth:
        truths['instances only'] = coco_truth(args.instances)
    return truths


def read_truth(path: Path, part: bool = False) -> dict[str, list[str]]:
    """Read the classes in each image: ``{"139": ["chair", "tv"]}``.

    Args:
        path: The JSON file.
        part: Whether it has a part of the images, so that it may be that no
            image has an object.

    Raises:
        ValueError: The file has another content, a class that COCO does not
            have, an image twice, or no image with an object.
        OSError: It cannot be read.
    """
    from .object_words import coco_words

    data = read_json(path, 'an object of image ids and lists of classes')
    known = set(coco_words().classes)
    if not isinstance(data, dict) or not data:
        raise ValueError(
            f'{path} is no object of image ids and lists of classes, such as '
            '{"139": ["chair", "tv"]}.'
        )
    for key, classes in data.items():
        if not isinstance(classes, list) or not all(
            isinstance(name, str) for name in classes
        ):
            raise ValueError(
                f'{path}: image {printable(key)} has no list of classes; '
                'expected names such as ["chair", "tv"].'
            )
        if unknown := sorted(set(classes) - known):
            raise ValueError(
                f'{path}: image {printable(key)} has the class '
                f'{printable(unknown[0])!r}, which is none of the '
                f'{len(known)} classes of COCO.'
            )
    if not part and not any(data.values()):
        raise ValueError(
            f'{path} has no object in any of its {len(data):,} images, so '
            'that every mention would be invented; expected the classes in '
            'each image, such as {"139": ["chair", "tv"]}.'
        )
    return data


def print_chair(
    summary: Mapping[str, Any],
    folder: Path | None,
    described: Path | str = TRUTH_FILE,
) -> None:
    """Print scores, and what was skipped.

    Args:
        summary: The summary.
        folder: The folder of the results; None if there is none.
        described: The file of the truth.
    """
    print_errors(summary['errors'])
    if summary['without_truth']:
        print(
            f'skipped: {counted(summary["without_truth"], "caption")} of '
            f'images that {printable(str(described))} does not have'
            + name_unknown(summary['unknown_ids'], [summary['known_id']]),
            file=sys.stderr,
        )
    print(
        f'{summary["captions"]:,} captions of {summary["images"]:,} images, '
        f'{summary["mentions"]:,} mentions, {summary["invented"]:,} invented; '
        '95 % intervals over images'
    )
    for label, name, unit in LABELS:
        if name in summary['scores']:
            print(f'{label:28}{format_score(summary["scores"][name], unit)}')
    top = list(summary['invented_classes'].items())[:_NAMED]
    if top:
        names = ', '.join(f'{name} ({number})' for name, number in top)
        print(f'most invented: {names}')
    if 'variants' in summary:
        print()
        print('\n'.join(variant_table(summary['variants'])))
    if folder is not None:
        print(f'results: {printable(str(folder))}', file=sys.stderr)
