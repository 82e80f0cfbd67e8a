# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Run of ``minigpt4 eval chair``: given or generated captions, and scores."""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..captioning.batch import CaptionTask, run_tasks
from ..captioning.image_sources import find_images
from ..generation.sampling_params import SamplingParams
from ..images.image_ids import image_id
from ..loading import load_model, quiet_logs, read_prompt
from ..utils.errors import printable
from ..utils.progress import progress_bar
from ..utils.regular_files import read_text
from ..utils.signals import raise_on_signals
from .chair import LABELS, score_captions
from .chair_truth import coco_truth, write_truth
from .chair_variants import score_variants, variant_table
from .result_folder import (
    ResultFolder,
    file_digest,
    format_score,
    read_json_lines,
)

_NAMED = 5  # errors or invented classes on the terminal


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
        generate = args.captions is None
        settings: dict[str, Any] = dict(truth=truth_settings)
        if generate:
            tasks = _find_tasks(args, truth)
            settings |= _model_settings(args, tasks[0].prompt)
        else:
            settings['captions'] = file_digest(args.captions)
        with ResultFolder(
            args.out, 'chair', settings, 'captions.jsonl', args.overwrite
        ) as results:
            if generate:
                _generate(args, tasks, truth, results)
            else:
                captions = list(read_captions(args.captions))
                results.add(captions[len(results.rows) :])
            captions = [r for r in results.rows if r.get('error') is None]
            errors = [r for r in results.rows if r.get('error') is not None]
            summary = dict(
                **score_captions(captions, truth, resamples=args.bootstrap),
                resamples=args.bootstrap,
                errors=errors,
            )
            if args.variants:
                summary['variants'] = score_variants(
                    captions, truth, _other_truths(args)
                )
            if args.out is not None:
                write_truth(args.out, truth, results.rows)
            if generate:
                summary['image_folder'] = os.path.abspath(args.images)
            results.write_summary(summary)
        _print_summary(args, summary)
    return 1 if errors else 0


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


def _truth_name(args: argparse.Namespace) -> str:
    return printable(str(args.truth or args.instances[0]))


def read_truth(path: Path) -> dict[str, list[str]]:
    """Read the classes in each image: ``{"139": ["chair", "tv"]}``.

    Raises:
        ValueError: The file has another content, or a class that COCO does
            not have.
        OSError: It cannot be read.
    """
    from .object_words import coco_words

    try:
        data = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f'{path} is not JSON ({printable(str(error))[:120]}); expected '
            'an object of image ids and lists of classes.'
        ) from error
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
    return data


def read_captions(path: Path) -> Iterator[dict[str, Any]]:
    """Read captions: a JSON line for each, of ``image_id`` and ``caption``.

    Raises:
        ValueError: A line has another content, or there is none.
        OSError: The file cannot be read.
    """
    empty = True
    for number, row in read_json_lines(path):
        empty = False
        if (
            not isinstance(row, dict)
            or not isinstance(row.get('image_id'), int | str)
            or not (isinstance(row.get('caption'), str) or row.get('error'))
        ):
            raise ValueError(
                f'{path}: line {number} is no caption; expected an object '
                'with image_id and caption.'
            )
        yield row
    if empty:
        raise ValueError(f'{path} is empty; expected one caption a line.')


def _find_tasks(
    args: argparse.Namespace, truth: dict[str, Any]
) -> list[CaptionTask]:
    """The images of the folder that the truth has, and the prompt."""
    if not args.images.is_dir():
        found = 'is not a folder' if args.images.exists() else 'does not exist'
        raise FileNotFoundError(
            f'{args.images} {found}; give the folder of the images as '
            '--images.'
        )
    prompt = args.prompt
    if prompt is None:
        prompt = read_prompt(args.model)
    files = [
        entry.image
        for entry in find_images([str(args.images)], recursive=True)
    ]
    chosen: dict[str, str] = {}
    for file in files:
        id_ = image_id(file, truth)
        if id_ in truth and chosen.setdefault(id_, file) != file:
            raise ValueError(
                f'{printable(chosen[id_])} and {printable(file)} both have '
                f'the id {printable(id_)} of {_truth_name(args)}; give a '
                'folder with one of them, or absolute paths as ids.'
            )
    if not chosen:
        raise ValueError(
            f'{_truth_name(args)} has none of the {len(files):,} images in '
            f'{args.images} (such as {printable(os.path.basename(files[0]))});'
            ' give the truth of these images.'
        )
    used = list(chosen.values())[: args.limit]
    return [CaptionTask(file, prompt) for file in used]


def _model_settings(args: argparse.Namespace, prompt: str) -> dict[str, Any]:
    return dict(
        model=args.model,
        pretrained=args.pretrained and file_digest(args.pretrained),
        prompt=prompt,
        limit=args.limit,
        generation=args.settings,
    )


def _generate(
    args: argparse.Namespace,
    tasks: Sequence[CaptionTask],
    truth: dict[str, Any],
    results: ResultFolder,
) -> None:
    """Caption the images that have no row yet."""
    done = {row['image_id'] for row in results.rows}
    missing = [t for t in tasks if image_id(t.image, truth) not in done]
    if not missing:
        return
    model = load_model(args.model, args.pretrained, args.device)
    SamplingParams.of(model.generation, args.settings)
    with progress_bar(visible=not args.quiet) as bar:
        task = bar.add_task(
            'captioning',
            total=len(tasks),
            completed=len(tasks) - len(missing),
        )
        for batch in run_tasks(
            model, missing, args.slots, args.workers, args.settings
        ):
            results.add([_row(fields, truth) for fields in batch])
            bar.advance(task, len(batch))
    # the engine finishes answers in any order
    results.rows.sort(key=lambda row: (row['file'], row['image_id']))


def _row(fields: dict[str, Any], truth: dict[str, Any]) -> dict[str, Any]:
    row = dict(
        image_id=image_id(fields['image'], truth),
        file=os.path.basename(fields['image']),
        prompt=fields['prompt'],
    )
    if 'error' in fields:
        return row | dict(error=fields['error'])
    return row | dict(
        caption=fields['caption'],
        finished=fields['finished'],
        tokens=fields['tokens'],
    )


def _print_summary(args: argparse.Namespace, summary: dict[str, Any]) -> None:
    errors = summary['errors']
    for row in errors[:_NAMED]:
        name = row.get('file', row.get('image_id'))
        print(printable(f'failed: {name}: {row["error"]}'), file=sys.stderr)
    if len(errors) > _NAMED:
        print(f'failed: {len(errors) - _NAMED:,} more', file=sys.stderr)
    if summary['without_truth']:
        print(
            f'skipped: {summary["without_truth"]:,} captions of images that '
            f'{_truth_name(args)} does not have',
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
    if args.out is not None:
        print(f'results: {printable(str(args.out))}', file=sys.stderr)
