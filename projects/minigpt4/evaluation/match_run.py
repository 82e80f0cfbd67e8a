# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Run of ``minigpt4 eval match``: losses of captions with two images each.

Images are encoded once, in chunks of the circle in which each image meets
the next. The rows of a chunk are stored together, so a run that continues
computes the same batches and gives the same bits.
"""

import argparse
import dataclasses
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from ..datasets.transforms import CleanCaption
from ..images.read import load_image
from ..loading import load_model, quiet_logs
from ..prompts import get_template
from ..utils.errors import one_line, printable
from ..utils.progress import progress_bar
from ..utils.signals import raise_on_signals
from .caption_losses import CaptionScorer
from .captioned_images import (
    CaptionedImage,
    CaptionedImages,
    read_captioned_images,
)
from .match import LABELS, other_images, score_losses
from .result_folder import ResultFolder, file_digest, format_score

CHUNK = 16  # images that are encoded and stored together
_NAMED = 5  # skipped images or records in the summary on the terminal
_WORKERS = 2  # threads that decode images


class _Encoded(NamedTuple):
    """An image that could be read, with its image tokens ``(Q, C)``."""

    image: CaptionedImage
    tokens: Tensor


def run_match(args: argparse.Namespace) -> int:
    """Measure and score; print the scores.

    Args:
        args: The options of ``minigpt4 eval match``.

    Returns:
        0.

    Raises:
        ValueError: An argument, a file or the result folder is invalid, or
            fewer than two images can be read.
        OSError: A file cannot be read or written.
    """
    note = 'what was measured is kept with -o, and the same command continues.'
    with raise_on_signals(note), quiet_logs(not args.quiet):
        data = read_captioned_images(args.annotations, args.images, args.limit)
        if args.clean:
            _clean(data)
        if len(data.images) < 2:
            raise ValueError(
                f'{args.annotations} has captions of one image only; expected '
                'at least two, so that a caption can meet another image.'
            )
        with ResultFolder(
            args.out,
            'match',
            _settings(args, data),
            'losses.jsonl',
            args.overwrite,
        ) as results:
            circle = _circle(data.images, args.seed)
            results.keep(_num_complete(circle, results.rows))
            missing = _unmeasured(circle, results.rows)
            if missing:
                _measure(args, circle, missing, results)
            summary = dict(
                **match_summary(results.rows, args.seed, args.bootstrap),
                invalid_records=len(data.invalid),
                images_without_caption=len(data.uncaptioned),
            )
            results.write_summary(summary)
        print_match(summary, args.out, data.invalid, data.uncaptioned)
    return 0


def measure(
    scorer: CaptionScorer,
    circle: Sequence[CaptionedImage],
    image_size: int,
    chunks: Sequence[int],
) -> Iterator[list[dict[str, Any]]]:
    """Yield the raw results of chunks of images.

    Args:
        scorer: The scorer.
        circle: The images; each meets the next one that can be read.
        image_size: Side of the images in pixels.
        chunks: Numbers of the chunks of :data:`CHUNK` images to measure.

    Yields:
        For each chunk a row for each caption, or for an image that cannot be
        read.

    Raises:
        ValueError: Only one image can be read.
    """
    parts = [circle[i : i + CHUNK] for i in range(0, len(circle), CHUNK)]
    with ThreadPoolExecutor(_WORKERS) as pool:
        loader = _ChunkLoader(scorer, parts, image_size, pool)
        for number in chunks:
            own, rows = loader.load(number)
            if own:
                following = loader.first_after(number)
                others = [*own[1:], following]
                rows = [*rows, *_rows(scorer, own, others)]
            yield rows


class _ChunkLoader:
    """Decodes and encodes chunks; keeps the last ones, which are near.

    Args:
        scorer: The scorer.
        parts: The chunks.
        image_size: Side of the images in pixels.
        pool: Threads that decode.
    """

    def __init__(
        self,
        scorer: CaptionScorer,
        parts: Sequence[Sequence[CaptionedImage]],
        image_size: int,
        pool: ThreadPoolExecutor,
    ) -> None:
        self.scorer, self.parts = scorer, parts
        self.image_size, self.pool = image_size, pool
        self._encoded: dict[int, tuple[list[_Encoded], list[dict]]] = {}
        self._pending: dict[int, list[Future[Tensor]]] = {}

    def _submit(self, number: int) -> list[Future[Tensor]]:
        if number not in self._pending:
            self._pending[number] = [
                self.pool.submit(load_image, image.file, self.image_size)
                for image in self.parts[number]
            ]
        return self._pending[number]

    def load(self, number: int) -> tuple[list[_Encoded], list[dict]]:
        """Return the encoded images of a chunk, and a row for each error."""
        if number in self._encoded:
            return self._encoded[number]
        futures = self._submit(number)
        if number + 1 < len(self.parts):
            self._submit(number + 1)  # decoded while this one is encoded
        images, pixels, rows = [], [], []
        for image, future in zip(self.parts[number], futures, strict=True):
            try:
                pixels.append(future.result())
            except (OSError, ValueError) as error:
                rows.append(dict(image=image.name, error=one_line(error)))
            else:
                images.append(image)
        del self._pending[number]
        tokens: Sequence[Tensor] = ()
        if pixels:
            tokens = list(self.scorer.encode(pixels))
        if len(self._encoded) > 1:
            self._encoded.pop(next(iter(self._encoded)))
        self._encoded[number] = (
            [_Encoded(*pair) for pair in zip(images, tokens, strict=True)],
            rows,
        )
        return self._encoded[number]

    def first_after(self, number: int) -> _Encoded:
        """Return the first image of the circle after a chunk."""
        own, unreadable = self.load(number)
        for step in range(1, len(self.parts)):
            encoded, rows = self.load((number + step) % len(self.parts))
            if encoded:
                return encoded[0]
            unreadable = [*unreadable, *rows]
        if len(own) < 2:
            raise ValueError(
                f'of the {sum(map(len, self.parts)):,} images only '
                f'{printable(own[0].image.name)} can be read; expected at '
                'least two. The first of the others: '
                f'{unreadable[0]["error"]}'
            )
        return own[0]


def _rows(
    scorer: CaptionScorer,
    own: Sequence[_Encoded],
    others: Sequence[_Encoded],
) -> list[dict[str, Any]]:
    """Measure the captions of some images, each with two images."""
    rows: list[dict[str, Any]] = []
    measured: list[dict[str, Any]] = []
    pairs = []
    for (image, tokens), other in zip(own, others, strict=True):
        for caption in image.captions:
            row: dict[str, Any] = dict(
                image=image.name, id=caption.id, caption=caption.text
            )
            rows.append(row)
            try:
                prompt = scorer.tokenize(caption.question, caption.text)
            except ValueError as error:
                row['error'] = one_line(error)
                continue
            row['other_image'] = other.image.name
            pairs += [(prompt, tokens), (prompt, other.tokens)]
            measured.append(row)
    losses = list(scorer.losses(pairs))
    for row, right, wrong in zip(measured, losses[::2], losses[1::2]):
        if not isfinite(right.loss + wrong.loss):
            row['error'] = 'the model gives a loss that is not a number'
            continue
        row |= dict(
            tokens=right.tokens, loss=right.loss, other_loss=wrong.loss
        )
    return rows


def _measure(
    args: argparse.Namespace,
    circle: Sequence[CaptionedImage],
    chunks: Sequence[int],
    results: ResultFolder,
) -> None:
    """Load the model and measure the chunks."""
    model = load_model(args.model, args.pretrained, args.device)
    template = None
    if args.template is not None:
        template = get_template(args.template, model.decoder.tokenizer)
    scorer = CaptionScorer(model, template, args.prompt, args.batch_size)
    done = len(circle) - sum(
        len(circle[n * CHUNK : (n + 1) * CHUNK]) for n in chunks
    )
    with progress_bar(visible=not args.quiet) as bar:
        task = bar.add_task('images', total=len(circle), completed=done)
        for rows in measure(scorer, circle, model.image_size, chunks):
            results.add(rows)
            bar.advance(task, len({row['image'] for row in rows}))


def _circle(
    images: Sequence[CaptionedImage], seed: int
) -> list[CaptionedImage]:
    by_name = {image.name: image for image in images}
    return [by_name[name] for name in other_images(by_name, seed)]


def _unmeasured(
    circle: Sequence[CaptionedImage], rows: Sequence[dict[str, Any]]
) -> list[int]:
    """Numbers of the chunks with an image that has fewer rows than captions.

    An image that cannot be read has one row.
    """
    found = Counter(row['image'] for row in rows)
    unreadable = {row['image'] for row in rows if 'id' not in row}
    return sorted(
        {
            i // CHUNK
            for i, image in enumerate(circle)
            if found[image.name] < len(image.captions)
            and image.name not in unreadable
        }
    )


def _num_complete(
    circle: Sequence[CaptionedImage], rows: Sequence[dict[str, Any]]
) -> int:
    """Number of rows before the first one of an incomplete chunk."""
    incomplete = {
        image.name
        for number in _unmeasured(circle, rows)
        for image in circle[number * CHUNK : (number + 1) * CHUNK]
    }
    return next(
        (i for i, row in enumerate(rows) if row['image'] in incomplete),
        len(rows),
    )


def _clean(data: CaptionedImages) -> None:
    """Clean the captions as stage 1 does."""
    clean = CleanCaption().clean
    for image in data.images:
        image.captions = [
            dataclasses.replace(caption, text=text)
            for caption in image.captions
            if (text := clean(caption.text))
        ]
    data.images = [image for image in data.images if image.captions]


def _settings(
    args: argparse.Namespace, data: CaptionedImages
) -> dict[str, Any]:
    """What the losses depend on."""
    return dict(
        model=args.model,
        pretrained=args.pretrained and file_digest(args.pretrained),
        captions=data.digest(),
        template=args.template,
        prompt=args.prompt,
        clean=args.clean,
        limit=args.limit,
        seed=args.seed,
        batch_size=args.batch_size,
    )


def match_summary(
    rows: Sequence[dict[str, Any]], seed: int, resamples: int
) -> dict[str, Any]:
    """Score the rows of a folder: what its summary stores."""
    return dict(
        **score_losses(rows, seed, resamples),
        resamples=resamples,
        errors=[row for row in rows if 'error' in row],
    )


def print_match(
    summary: Mapping[str, Any],
    folder: Path | None,
    invalid: Sequence[str] = (),
    uncaptioned: Sequence[str] = (),
) -> None:
    """Print scores, and what was skipped.

    Args:
        summary: The summary.
        folder: The folder of the results; None if there is none.
        invalid: What is wrong with each record that was skipped.
        uncaptioned: Names of images without a caption.
    """
    errors = [
        printable(f'{row["image"]}: {row["error"]}')
        for row in summary['errors']
    ]
    for kind, messages in (
        ('skipped', errors),
        ('skipped', invalid),
        ('image without a caption', uncaptioned),
    ):
        for message in messages[:_NAMED]:
            print(f'{kind}: {printable(message)}', file=sys.stderr)
        if len(messages) > _NAMED:
            more = len(messages) - _NAMED
            print(f'{kind}: {more:,} more', file=sys.stderr)
    print(
        f'{summary["captions"]:,} captions of {summary["images"]:,} images, '
        f'{summary["tokens"]:,} tokens; 95 % intervals over images'
    )
    for label, name, unit in LABELS:
        score = summary['scores'][name]
        print(f'{label:24}{format_score(score, unit)}')
    if folder is not None:
        print(f'results: {printable(str(folder))}', file=sys.stderr)
