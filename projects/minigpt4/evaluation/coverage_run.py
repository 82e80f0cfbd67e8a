# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Run of ``minigpt4 eval coverage``: captions, judgements, scores."""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..datasets.skip_summary import counted
from ..endpoints.cost import format_usd
from ..loading import quiet_logs
from ..utils.errors import printable
from ..utils.signals import raise_on_signals
from .caption_source import read_captions
from .captioned_images import read_references
from .coverage import (
    CAPTION_PROMPT,
    GENERATION,
    PUBLISHED,
    References,
    judge_questions,
    score_coverage,
)
from .generated_answers import (
    AskedImage,
    folder_images,
    generate_answers,
    model_settings,
)
from .judge import (
    JUDGEMENTS_FILE,
    JudgeSettings,
    estimate_judgements,
    judge,
    missing_questions,
)
from .result_folder import ResultFolder, file_digest, format_score
from .unknown_ids import name_unknown

_NOTE = 'what was answered is kept, and the same command continues'
_NAMED = 5
_CAPTIONS_FILE = 'captions.jsonl'


def run_coverage(args: argparse.Namespace, judged_by: JudgeSettings) -> int:
    """Judge given or generated captions and print the scores.

    Args:
        args: The options of ``minigpt4 eval coverage``.
        judged_by: The judge.

    Returns:
        0; 1 if a caption could not be generated or judged.

    Raises:
        ValueError: A file, an option or the result folder is invalid.
        OSError: A file cannot be read or written.
        ModelFailureError: The model fails on every request.
        UserError: The judge fails on every request, or the next request
            might exceed ``max_cost``.
    """
    with raise_on_signals(_NOTE), quiet_logs(not args.quiet):
        references = References(
            read_references(args.annotations),
            args.reference,
            args.reference_seed,
        )
        settings: dict[str, Any] = dict(
            annotations=file_digest(args.annotations),
            reference=args.reference,
            seed=args.reference_seed if args.reference == 'random' else None,
            judge=judged_by.request_settings(),
        )
        asked: list[AskedImage] = []
        if args.captions is None:
            asked = _asked(args, references)
            settings |= model_settings(args, asked, GENERATION)
        else:
            settings |= dict(
                captions=file_digest(args.captions), limit=args.limit
            )
        with ResultFolder(
            args.out, 'coverage', settings, JUDGEMENTS_FILE, args.overwrite
        ) as results:
            if args.captions is None:
                source = args.out / _CAPTIONS_FILE
                captions = _generated(args, asked, settings)
            else:
                source = args.captions
                captions = list(read_captions(source))[: args.limit]
            failed = [row for row in captions if row.get('error')]
            questions, without = judge_questions(
                [row for row in captions if not row.get('error')],
                references,
                source,
            )
            missing = missing_questions(
                questions, results.rows, judged_by.model
            )
            estimate = estimate_judgements(judged_by, missing)
            if args.estimate:
                print(estimate)
                return 0
            if missing and not args.quiet:
                print(printable(str(estimate)), file=sys.stderr)
            judge(judged_by, questions, results, args.quiet)
            summary = coverage_summary(results.rows, args.parser)
            summary['without_reference'] = len(without)
            summary['failed_captions'] = len(failed)
            results.write_summary(summary)
        _print_skipped(failed, without, references.ids)
        print_coverage(summary, args.out)
    return 1 if summary['errors'] or failed else 0


def coverage_summary(
    rows: list[dict[str, Any]], parser: str
) -> dict[str, Any]:
    """Scores of stored judgements, with the published figures.

    Raises:
        ValueError: There is no judgement.
    """
    published = {
        name: dict(yes=yes, judged=total) for name, yes, total in PUBLISHED
    }
    return dict(**score_coverage(rows, parser), published=published)


def print_coverage(summary: Mapping[str, Any], folder: Path) -> None:
    """Print the scores."""
    for error in summary['errors'][:_NAMED]:
        print(
            printable(f'failed: {error["image_id"]}: {error["error"]}'),
            file=sys.stderr,
        )
    if len(summary['errors']) > _NAMED:
        more = len(summary['errors']) - _NAMED
        print(f'failed: {more:,} more', file=sys.stderr)
    facts = summary['judge']
    print(
        printable(
            f'coverage: {summary["judged"]:,} captions, judged by '
            f'{facts["model"]} ({facts["last_date"]}), parser '
            f'{summary["parser"]}; 95 % interval of Wilson'
        )
    )
    print(f'covered     {format_score(summary["scores"]["coverage"], "%")}')
    print(
        f'answers     {summary["yes"]:,} yes, {summary["no"]:,} no, '
        f'{summary["unparsed"]:,} unparsed'
    )
    print(
        f'cost        {format_usd(facts["cost_usd"])}, '
        f'{facts["prompt_tokens"]:,} prompt tokens, '
        f'{facts["completion_tokens"]:,} tokens of answers'
    )
    paper = ', '.join(
        f'{name} {yes:,} of {total:,} ({yes / total:.1%})'
        for name, yes, total in PUBLISHED
    )
    print(
        f'published   {paper}; its images, caption prompt, decoding, version '
        'of the judge and parser are not'
    )
    print(f'results: {printable(str(folder))}', file=sys.stderr)


def _asked(
    args: argparse.Namespace, references: References
) -> list[AskedImage]:
    """The images with a reference, and their prompt."""
    prompt = CAPTION_PROMPT if args.prompt is None else args.prompt
    files = folder_images(args.images)
    asked = []
    for file in files:
        found = references.find(file)
        if found is not None:
            asked.append(AskedImage(file, prompt, dict(image_id=found[0])))
    if not asked:
        raise ValueError(
            f'{args.annotations} has a caption of none of the {len(files):,} '
            f'images in {args.images} (such as {printable(files[0])}); give '
            'the captions of these images.'
        )
    return asked[: args.limit]


def _generated(
    args: argparse.Namespace, asked: list[AskedImage], settings: dict[str, Any]
) -> list[dict[str, Any]]:
    """Generate the captions that are not stored; return all rows."""
    with ResultFolder(
        args.out, 'coverage', settings, _CAPTIONS_FILE, args.overwrite
    ) as captions:
        generate_answers(args, asked, captions, 'caption')
        return captions.rows


def _print_skipped(
    failed: list[dict[str, Any]], without: list[str], known: list[str]
) -> None:
    for row in failed[:_NAMED]:
        print(
            printable(f'failed: {row["image_id"]}: {row["error"]}'),
            file=sys.stderr,
        )
    if len(failed) > _NAMED:
        print(f'failed: {len(failed) - _NAMED:,} more', file=sys.stderr)
    if without:
        unknown = name_unknown(without, known, '--annotations')
        print(
            f'skipped: {counted(len(without), "caption")} of images without a '
            f'reference caption{unknown}',
            file=sys.stderr,
        )
