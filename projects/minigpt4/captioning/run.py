# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Run of ``minigpt4 caption``: find images, answer, store, export.

The results database ``OUTPUT.sqlite`` is next to the output, which is
exported from it when all tasks have ended.
"""

import argparse
import functools
import hashlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..images.read import read_image
from ..loading import load_model, quiet_logs, read_prompt
from ..prompts import IMAGE_HERE
from ..prompts.text_validation import check_text
from ..utils.errors import printable
from ..utils.progress import progress_bar
from ..utils.regular_files import NotRegularFileError, open_regular
from ..utils.signals import raise_on_signals
from .answers import answer_many
from .batch import (
    CaptionTask,
    check_image_file,
    failure_fields,
    result_fields,
)
from .exports import require_pyarrow, write_export
from .gallery import check_gallery, write_gallery
from .image_lists import is_row_name
from .image_sources import find_images
from .jsonl_import import import_jsonl
from .results import CaptionResult, ResultKey, ResultsDatabase
from .server import TIMEOUT_SECONDS, CaptionServer

_PROMPT = 'Describe this image in detail.'  # for a server's model
_NAMED_FAILURES = 10  # in the summary


def caption_sources(args: argparse.Namespace) -> int:
    """Answer prompts about images, and export the results.

    Args:
        args: The options of :mod:`minigpt4_cli.caption`.

    Returns:
        0; 1 if an image could not be answered.

    Raises:
        ValueError: An argument, a list, the database or an output is invalid.
        OSError: A file cannot be read or written.
        ModelFailureError: The model fails on every request.
        ServerError: The server cannot be used, or fails on every request.
    """
    note = (
        'what was answered is kept, and the same command continues from there.'
    )
    with raise_on_signals(note), quiet_logs(not args.quiet):
        start = time.perf_counter()
        server = None
        if args.server is not None:
            server = CaptionServer(
                args.server,
                args.model,
                args.api_key_env,
                args.server_timeout or TIMEOUT_SECONDS,
            )
            args.model = server.model
        tasks = _find_tasks(args)
        if args.gallery is not None:
            check_gallery(args.gallery)
        with _open_database(args) as database:
            return _run(args, server, tasks, database, start)


def _run(
    args: argparse.Namespace,
    server: CaptionServer | None,
    tasks: Sequence[CaptionTask],
    database: ResultsDatabase,
    start: float,
) -> int:
    missing = [task for task in tasks if not _is_answered(database, task)]
    n_done = len(tasks) - len(missing)
    n_answered = 0
    failures: list[CaptionResult] = []
    bar = progress_bar(with_status=True, visible=not args.quiet)
    bar_task = bar.add_task(
        'captioning', total=len(tasks), completed=n_done, status=''
    )
    try:
        for results in _new_results(args, server, database, missing):
            database.add(results)
            failed = [result for result in results if result.error]
            failures += failed
            n_answered += len(results) - len(failed)
            status = f'{len(failures)} failed' if failures else ''
            bar.start()  # after the model is loaded, which may print
            bar.update(bar_task, advance=len(results), status=status)
    finally:
        bar.stop()
    _remove_old_row_errors(args, database, tasks)
    database.sort([_key(task) for task in tasks])
    write_export(database.results(), args.out)
    if args.gallery is not None:
        write_gallery(
            database.results(), args.gallery, args.workers, args.references
        )
    if not args.quiet:
        seconds = time.perf_counter() - start
        done = f'{n_answered:,} answered in {seconds:.1f} s'
        counts = [done, f'{n_done:,} already done']
        _print_summary(args, counts, failures, len(database))
    return 1 if failures else 0


def _new_results(
    args: argparse.Namespace,
    server: CaptionServer | None,
    database: ResultsDatabase,
    tasks: Sequence[CaptionTask],
) -> Iterator[list[CaptionResult]]:
    """Run the tasks; the model is loaded only if an image can be read."""

    def results(batch: Sequence[dict[str, Any]]) -> list[CaptionResult]:
        return [CaptionResult(**f, **database.provenance) for f in batch]

    to_generate = []
    for task in tasks:
        if task.error is not None:
            yield results([failure_fields(task, ValueError(task.error))])
            continue
        if database.error(_key(task)) is not None:
            try:
                check_image_file(task.image)
                read_image(task.image)
            except (OSError, ValueError) as error:
                yield results([failure_fields(task, error)])
                continue
        to_generate.append(task)
    if to_generate:
        if server is not None:
            ended = server.answer_tasks(to_generate, args.slots, args.settings)
        else:
            load = functools.partial(
                load_model, args.model, args.pretrained, args.device
            )
            ended = answer_many(
                load, to_generate, args.slots, args.workers, args.settings
            )
        for answers in ended:
            yield results([*map(result_fields, answers)])


def _remove_old_row_errors(
    args: argparse.Namespace,
    database: ResultsDatabase,
    tasks: Sequence[CaptionTask],
) -> None:
    """Remove errors of invalid rows that their list no longer has."""
    present = {os.path.abspath(task.image) for task in tasks}
    lists = [
        os.path.abspath(os.path.expanduser(source)) for source in args.sources
    ]
    database.remove(
        [
            key
            for key in database.keys()
            if key[0] not in present
            and database.error(key) is not None
            and any(is_row_name(key[0], path) for path in lists)
        ]
    )


def _find_tasks(args: argparse.Namespace) -> list[CaptionTask]:
    """Combine images and prompts; each combination once."""
    prompts = args.prompt
    if not prompts:
        is_remote = args.server is not None
        prompts = [_PROMPT if is_remote else read_prompt(args.model)]
    for prompt in prompts:
        if reason := _check_prompt(prompt):
            raise ValueError(f'the prompt {printable(prompt)!r} {reason}')
    tasks: dict[ResultKey, CaptionTask] = {}
    for image, own, error in find_images(args.sources, args.recursive):
        for prompt in prompts if own is None else [own]:
            if error is None and (reason := _check_prompt(prompt)):
                error = f'the prompt {printable(prompt)!r} {reason}'
            task = CaptionTask(image, prompt, error)
            tasks.setdefault(_key(task), task)
    return list(tasks.values())


def _check_prompt(prompt: str) -> str | None:
    """Why a prompt cannot be used for single images; None if it can."""
    if prompt.count(IMAGE_HERE) > 1:
        return (
            f'has several {IMAGE_HERE}, but each prompt is about one image; '
            'write it once or omit it.'
        )
    try:
        check_text(prompt, '', allow_empty=True)
    except ValueError as error:
        return str(error).strip()
    return None


def _open_database(args: argparse.Namespace) -> ResultsDatabase:
    """Open the results database of an output.

    Results of release 0.1 are imported into a new database.

    Raises:
        ValueError: The output is not an export of the database.
        OSError: It cannot be written.
    """
    out: Path = args.out
    path, jsonl = out.with_suffix('.sqlite'), out.with_suffix('.jsonl')
    if out.suffix == '.parquet':
        require_pyarrow()
    if out.is_dir():
        raise ValueError(f'{out} is a folder; give the name of a file.')
    if out.exists() and not out.is_file():
        raise NotRegularFileError(
            f'{out} is not a regular file; give another -o.'
        )
    if args.overwrite:
        _check_sources_not_replaced(args.sources, (out, path))
    elif out.exists() and not (path.exists() or jsonl.exists()):
        raise ValueError(
            f'{out} exists, but {path}, from which it is exported, does not; '
            'give another -o, or --overwrite.'
        )
    settings = args.settings
    if args.server is not None:  # its prompt template may differ
        settings = dict(settings, server=True)
    provenance = dict(
        model=args.model,
        weights=args.pretrained and _digest(args.pretrained),
        settings=settings,
    )
    database = ResultsDatabase(path, provenance, args.overwrite)
    try:
        if (
            not (args.overwrite or len(database))
            and jsonl.exists()
            and not _is_source(jsonl, args.sources)
        ):
            print(import_jsonl(jsonl, database), file=sys.stderr)
    except BaseException:
        database.close()
        raise
    return database


def _is_source(path: Path, sources: Sequence[str]) -> bool:
    """Whether a file is one of the sources of the command line."""
    return any(
        os.path.realpath(path) == os.path.realpath(os.path.expanduser(source))
        for source in sources
    )


def _check_sources_not_replaced(
    sources: Sequence[str], outputs: Sequence[Path]
) -> None:
    for source in sources:
        for output in outputs:
            if output.exists() and _is_source(output, [source]):
                raise ValueError(
                    f'--overwrite would replace the list {source}; give '
                    'another -o.'
                )


def _digest(path: str) -> str:
    """A digest of a checkpoint file: 16 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=8)
    with open_regular(path) as file:
        while data := file.read(2**20):
            digest.update(data)
    return digest.hexdigest()


def _key(task: CaptionTask) -> ResultKey:
    return os.path.abspath(task.image), task.prompt


def _is_answered(database: ResultsDatabase, task: CaptionTask) -> bool:
    """Whether an image has an answer and has not changed since."""
    if task.error is not None:
        return False
    state = database.image_state(_key(task))
    if state is None:
        return False
    try:
        status = os.stat(task.image)
    except (OSError, ValueError):  # missing, or not a valid file name
        return False
    return state == (status.st_size, status.st_mtime_ns)


def _print_summary(
    args: argparse.Namespace,
    counts: list[str],
    failures: Sequence[CaptionResult],
    n_results: int,
) -> None:
    out = sys.stderr
    if failures:
        counts.append(f'{len(failures):,} failed')
    for result in failures[:_NAMED_FAILURES]:
        name, error = printable(result.image), result.error or ''
        named = name in error or result.image in error
        print('failed:', error if named else f'{name}: {error}', file=out)
    if len(failures) > _NAMED_FAILURES:
        more = len(failures) - _NAMED_FAILURES
        print(f'... and {more:,} more', file=out)
    output = printable(str(args.out))
    print(f'{", ".join(counts)}; {n_results:,} rows: {output}', file=out)
    if args.gallery is not None:
        print(f'gallery: {printable(str(args.gallery))}', file=out)
