# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Ask about a folder of images, into a table: the run of a command."""

import argparse
import hashlib
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from ..generation.sampling import SamplingParams
from ..images.read import read_image
from ..loading import load_model, own_prompt, quiet_logs
from ..prompts import IMAGE_HERE
from ..prompts.text_validation import check_text
from ..utils.errors import (
    printable,
)
from ..utils.regular_files import open_regular
from ..utils.signals import raise_on_signals
from .batch import Job, answer_all, check_picture, failed
from .gallery import check_gallery, write_gallery
from .image_lists import is_row_name
from .sources import find_questions
from .table import (
    CaptionRow,
    CaptionTable,
    require_pyarrow,
    write_table,
)

_NAMED = 10  # failures that the summary names


def caption_sources(args: argparse.Namespace) -> int:
    """Answer questions about images into a table.

    Args:
        args: The options of :mod:`minigpt4_cli.caption`.

    Returns:
        0; 1 if an image could not be answered.
    """
    note = (
        'what was answered is kept, and the same command continues from there.'
    )
    with raise_on_signals(note), quiet_logs(not args.quiet):
        with ExitStack() as stack:
            return _run(args, stack)


def _run(args: argparse.Namespace, stack: ExitStack) -> int:
    start = time.perf_counter()
    jobs = _jobs(args)
    if args.gallery is not None:
        check_gallery(args.gallery)
    table = _open_table(args)
    stack.callback(table.close)
    if table.repaired:
        print(table.repaired, file=sys.stderr)
    missing = [job for job in jobs if not _is_done(table, job)]
    counts: Counter[str] = Counter(there=len(jobs) - len(missing))
    failures: list[CaptionRow] = []
    with _progress(args, len(jobs), counts['there']) as advance:
        for fields in _answers(args, table, missing):
            row = CaptionRow(**fields, **table.made_by)
            table.add(row)
            if row.error:
                failures.append(row)
            else:
                counts['new'] += 1
            advance(len(failures))
    _remove_old_rows(args, table, jobs)
    table.finish([(os.path.abspath(job.image), job.prompt) for job in jobs])
    if args.out != table.path:
        write_table(table.rows(), args.out)
    if args.gallery is not None:
        write_gallery(table.rows(), args.gallery, workers=args.workers)
    if not args.quiet:
        seconds = time.perf_counter() - start
        _summarise(args, counts, failures, len(table), seconds)
    return 1 if failures else 0


def _answers(
    args: argparse.Namespace, table: CaptionTable, jobs: Sequence[Job]
) -> Iterator[dict[str, Any]]:
    """Answer what is missing; the model is built only if it has to look."""
    fresh = []
    for job in jobs:
        if job.error is not None:
            yield failed(job, ValueError(job.error))
            continue
        if table.error((os.path.abspath(job.image), job.prompt)) is not None:
            try:
                check_picture(job.image)
                read_image(job.image)
            except (OSError, ValueError) as error:
                yield failed(job, error)
                continue
        fresh.append(job)
    if fresh:
        model = load_model(args.model, args.pretrained, args.device)
        SamplingParams.of(model.generation, args.settings)
        yield from answer_all(
            model, fresh, args.slots, args.workers, args.settings
        )


def _remove_old_rows(
    args: argparse.Namespace, table: CaptionTable, jobs: Sequence[Job]
) -> None:
    """Remove the failures of list rows that could not be read before."""
    present = {os.path.abspath(job.image) for job in jobs}
    lists = [
        os.path.abspath(os.path.expanduser(source)) for source in args.sources
    ]
    for key in table.keys():
        if key[0] not in present and table.error(key) is not None:
            if any(is_row_name(key[0], path) for path in lists):
                table.remove(key)


def _jobs(args: argparse.Namespace) -> list[Job]:
    """What is asked, each question once."""
    if not args.prompt:
        args.prompt = [own_prompt(args.model)]
    for prompt in args.prompt:
        fault = _fault_of(prompt)
        if fault:
            raise ValueError(f'the prompt {printable(prompt)!r} {fault}')
    jobs: dict[tuple[str, str], Job] = {}
    for image, own, error in find_questions(args.sources, args.recursive):
        for prompt in args.prompt if own is None else [own]:
            if error is None and (fault := _fault_of(prompt)):
                error = f'the prompt {printable(prompt)!r} {fault}'
            key = os.path.abspath(image), prompt
            jobs.setdefault(key, Job(image, prompt, error))
    return list(jobs.values())


def _fault_of(prompt: str) -> str | None:
    """Why a prompt cannot be asked about one picture; None if it can."""
    if prompt.count(IMAGE_HERE) > 1:
        return (
            f'has several {IMAGE_HERE}, but each picture is asked about '
            'alone; write it once or not at all.'
        )
    try:
        check_text(prompt, '', allow_empty=True)
    except ValueError as error:
        return str(error).strip()
    return None


def _open_table(args: argparse.Namespace) -> CaptionTable:
    """Open the resumable file of an output.

    Raises:
        ValueError: The output is not made from that file.
        OSError: It cannot be written.
    """
    path = args.out.with_suffix('.jsonl')
    if args.out.suffix == '.parquet':
        require_pyarrow()
    if args.out.is_dir() or path.is_dir():
        raise ValueError(f'{args.out} is a folder; give the name of a file.')
    if args.out.exists() and not path.exists() and not args.overwrite:
        raise ValueError(
            f'{args.out} exists, but {path}, from which it is made, does '
            'not; give another -o, or --overwrite.'
        )
    for source in args.sources:
        for file in {args.out, path} if args.overwrite else ():
            if file.exists() and os.path.realpath(file) == os.path.realpath(
                os.path.expanduser(source)
            ):
                raise ValueError(
                    f'--overwrite would replace the list {source}; give '
                    'another -o.'
                )
    weights = None
    if args.pretrained is not None:
        with open_regular(args.pretrained) as file:
            digest = hashlib.blake2b(digest_size=8)
            while data := file.read(2**20):
                digest.update(data)
        weights = digest.hexdigest()
    made_by = dict(model=args.model, weights=weights, settings=args.settings)
    return CaptionTable(path, made_by, args.overwrite)


def _is_done(table: CaptionTable, job: Job) -> bool:
    """Whether a picture is answered and has not changed since."""
    if job.error is not None:
        return False
    state = table.state((os.path.abspath(job.image), job.prompt))
    if state is None:
        return False
    try:
        about = os.stat(job.image)
    except (OSError, ValueError):  # missing, or no name of a file
        return False
    return state == (about.st_size, about.st_mtime_ns)


def _progress(args: argparse.Namespace, total: int, there: int):
    """A bar on standard error; silent where nobody looks at it."""
    bar = Progress(
        TextColumn('captioning'),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn('{task.fields[failed]}'),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=args.quiet or not sys.stderr.isatty(),
    )
    return _Advance(bar, total, there)


class _Advance:
    """A progress bar as one function: one more, so many failed so far."""

    def __init__(self, bar: Progress, total: int, there: int) -> None:
        self._bar = bar
        self._task = bar.add_task('', total=total, completed=there, failed='')

    def __enter__(self) -> '_Advance':
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, failed: int) -> None:
        self._bar.start()  # not before the model is there
        self._bar.update(
            self._task, advance=1, failed=f'{failed} failed' * bool(failed)
        )


def _summarise(
    args: argparse.Namespace,
    counts: Counter,
    failures: Sequence[CaptionRow],
    rows: int,
    seconds: float,
) -> None:
    done = f'{counts["new"]:,} answered in {seconds:.1f} s'
    parts = [done, f'{counts["there"]:,} already done']
    if failures:
        parts.append(f'{len(failures):,} failed')
    out = sys.stderr
    for row in failures[:_NAMED]:
        name, error = printable(row.image), row.error or ''
        known = name in error or row.image in error
        print('failed:', error if known else f'{name}: {error}', file=out)
    if len(failures) > _NAMED:
        print(f'... and {len(failures) - _NAMED:,} more', file=out)
    table = printable(str(args.out))
    print(f'{", ".join(parts)}; {rows:,} rows: {table}', file=out)
    if args.gallery is not None:
        print(f'gallery: {printable(str(args.gallery))}', file=out)
