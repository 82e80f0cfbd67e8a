# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Run of ``minigpt4 data check``: read, count, compare, write the report."""

import argparse
import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..loading import quiet_logs
from ..utils.atomic import make_folder, replacing, write_atomically
from ..utils.data_manifest import read_manifest
from ..utils.errors import printable
from ..utils.progress import progress_bar
from ..utils.signals import StopRequest, StopSignal
from ..weights.file_digests import compute_digest
from .check_description import describe_check
from .check_progress import PROGRESS_FOLDER, CheckProgress, check_progress
from .data_items import count_records
from .duplicates import image_groups, image_problems, text_problems
from .find_data import DataPart, FoundData, find_data
from .image_facts import require_imagehash
from .limits import KINDS, Count, count_problems
from .manifest import (
    Difference,
    build_manifest,
    compare_manifests,
    data_files,
)
from .problems import Problems
from .prompt_tokens import PromptTokens
from .report import write_report
from .scan import HELD_OUT, Scan
from .shard_links import (
    RETRY_FILE,
    ShardLinks,
    count_links,
    link_problems,
    read_links,
    retry_links,
    unfinished_shards,
)
from .summary import summarise

_NAMED = 5  # problems of a kind that are printed
_DIFFERENCES = 20  # from a manifest that are printed
_OUTPUTS = (
    *('report.html', 'summary.json', 'problems.jsonl', 'manifest.json'),
    RETRY_FILE,
)
Links = Mapping[str, 'ShardLinks | str']


def check_data(args: argparse.Namespace) -> int:
    """Check data and report.

    Args:
        args: The options of :mod:`minigpt4_cli.data_check`.

    Returns:
        0 if no limit is exceeded and the manifest agrees, else 1; 128 + N
        after signal N, which ends the reading and not the report.

    Raises:
        ValueError: A source or a manifest is invalid.
        OSError: A file cannot be read or written.
        ImportError: A package is missing.
    """
    if args.near:
        require_imagehash()
    old = None if args.verify is None else read_manifest(args.verify)
    if args.out is not None:
        _check_output(args.out)
    start = time.perf_counter()
    with quiet_logs(not args.quiet):
        found = find_data(args.sources)
        against = find_data(args.against) if args.against else None
        links = read_links(found.parts)
        prompts = PromptTokens(args.model)
        description = describe_check(args, prompts, found, against)
        with (
            StopRequest() as stop,
            check_progress(args.out, description) as progress,
        ):
            _print_continued(progress, args.quiet)
            scan = Scan(
                prompts, args.near > 0, args.workers, progress=progress
            )
            try:
                _read(found, scan, links, args, stop, None)
                if against is not None:
                    other = Scan(
                        None,
                        args.near > 0,
                        args.workers,
                        0,
                        compared_to=scan,
                        progress=progress,
                    )
                    _read(against, other, {}, args, stop, HELD_OUT)
            except StopSignal:
                pass  # what was read is reported
            return _finish(
                args, found, scan, links, old, stop, start, progress
            )


def _print_continued(progress: CheckProgress | None, quiet: bool) -> None:
    if progress is None or quiet:
        return
    if progress.num_stored:
        print(
            'continues a check that was stopped, whose '
            f'{progress.num_stored:,} finished parts are not read again',
            file=sys.stderr,
        )
    elif progress.is_changed:
        print(
            'the data or the options have changed since the check that was '
            'stopped; everything is read again',
            file=sys.stderr,
        )


def _read(
    found: FoundData,
    scan: Scan,
    links: Links,
    args: argparse.Namespace,
    stop: StopRequest,
    split: int | None,
) -> None:
    """Read the parts of the data with a progress bar."""
    sizes = [_count(part, links) for part in found.parts]
    known = [size for size in sizes if size is not None]
    total = sum(known) if len(known) == len(sizes) else None
    with progress_bar(visible=not args.quiet) as bar:
        task = bar.add_task('reading', total=total)

        def on_records(number: int) -> None:
            bar.advance(task, number)
            stop.raise_if_requested()

        for part in found.parts:
            scan.read(part, args.images, split, on_records)


def _count(part: DataPart, links: Links) -> int | None:
    """Return the number of records of a part; None where it is unknown."""
    if not part.shards:
        return count_records(part)
    facts = [links.get(shard) for shard in part.shards]
    known = [each for each in facts if isinstance(each, ShardLinks)]
    return sum(k.images for k in known) if len(known) == len(facts) else None


def _check_output(folder: Path) -> None:
    """Refuse a folder that has other files than those of a check.

    Raises:
        ValueError: It is not empty and has no report.
        OSError: It cannot be created.
    """
    make_folder(folder)
    names = {path.name for path in folder.iterdir()}
    if names and not names & {*_OUTPUTS, PROGRESS_FOLDER}:
        raise ValueError(
            f'{folder} has other files; give a new folder as -o, for the '
            f'report ({", ".join(_OUTPUTS)}).'
        )


def _finish(
    args: argparse.Namespace,
    found: FoundData,
    scan: Scan,
    links: Links,
    old: 'Mapping[str, Any] | None',
    stop: StopRequest,
    start: float,
    progress: CheckProgress | None,
) -> int:
    """Report; returns the exit status."""
    groups = image_groups(scan.known, args.near)
    problems = scan.problems
    problems.extend(image_problems(groups, scan.known))
    problems.extend(text_problems(scan.known))
    # of a shard that was not read completely the samples are not known
    unfinished: dict[str, str] = {}
    if stop.signum is None:
        unfinished = unfinished_shards(links, scan.shards)
    problems.extend(link_problems(links, unfinished))
    counts = count_problems(
        scan, problems.numbers, args.limits, count_links(links)
    )
    differences: list[Difference] = []
    manifest = None
    if stop.signum is None and (args.out is not None or old is not None):
        manifest = _build_manifest(
            args, found, scan, unfinished, stop, progress
        )
    if manifest is not None and old is not None:
        differences = compare_manifests(old, manifest)
    if args.out is not None:
        _write_retry_links(args.out, links, found.ignored)
    signum = stop.signum
    summary = summarise(args.sources, found, scan, counts, differences)
    summary['links'] = count_links(links)
    summary['complete'] = signum is None
    summary['seconds'] = round(time.perf_counter() - start, 2)
    if args.out is not None:
        _write(args.out, summary, problems, manifest)
        write_report(args.out / 'report.html', summary, scan, groups)
    _print(args, summary, counts, problems, differences, found.ignored)
    if signum is not None:
        print(
            f'\nstopped by signal {signum}; the figures are those of the '
            f'first {scan.num_records:,} records, and no manifest is '
            'written.'
            + (' The same command continues from there.' * bool(args.out)),
            file=sys.stderr,
        )
        return 128 + signum
    if progress is not None:
        progress.remove()
    exceeded = any(count.exceeded for count in counts)
    return 1 if exceeded or differences else 0


def _build_manifest(
    args: argparse.Namespace,
    found: FoundData,
    scan: Scan,
    unfinished: Mapping[str, str],
    stop: StopRequest,
    progress: CheckProgress | None,
) -> 'dict[str, Any] | None':
    """Read the files for their digests; None after a signal."""
    digest_of = compute_digest if progress is None else progress.digest
    with progress_bar(visible=not args.quiet) as bar:
        task = bar.add_task('digests', total=len(data_files(found.parts)))

        def on_file() -> None:
            bar.advance(task)
            stop.raise_if_requested()

        try:
            return build_manifest(
                args.sources,
                found.parts,
                scan,
                unfinished,
                args.out,
                on_file,
                digest_of,
            )
        except StopSignal:
            return None


def _write(
    folder: Path,
    summary: Mapping[str, Any],
    problems: Problems,
    manifest: 'Mapping[str, Any] | None',
) -> None:
    def dump(name: str, content: Any) -> None:
        text = json.dumps(content, indent=1, ensure_ascii=True)
        write_atomically(folder / name, text.encode() + b'\n')

    dump('summary.json', summary)
    _write_lines(folder / 'problems.jsonl', problems.lines())
    if manifest is not None:
        dump('manifest.json', manifest)


def _write_retry_links(folder: Path, links: Links, notes: list[str]) -> None:
    """Write the links that another attempt may get, if there are some."""
    (folder / RETRY_FILE).unlink(missing_ok=True)
    if not any(
        isinstance(f, ShardLinks) and f.messages for f in links.values()
    ):
        return
    finished = [k for k, f in links.items() if isinstance(f, ShardLinks)]
    rows = (json.dumps(r).encode() + b'\n' for r in retry_links(finished))
    try:
        _write_lines(folder / RETRY_FILE, rows)
    except ImportError:
        notes.append(
            f'{RETRY_FILE} is not written: it needs the package pyarrow; '
            "pip install 'minigpt4[parquet]'"
        )


def _write_lines(path: Path, lines: Iterable[bytes]) -> None:
    with replacing(path) as temporary, open(temporary, 'wb') as file:
        file.writelines(lines)


def _print(
    args: argparse.Namespace,
    summary: Mapping[str, Any],
    counts: Sequence[Count],
    problems: Problems,
    differences: Sequence[Difference],
    ignored: Sequence[str],
) -> None:
    """Print the result."""
    if not args.quiet:
        for line in ignored:
            print(f'note: {line}', file=sys.stderr)
        print(headline(summary))
    for count in counts:
        if count.number and (count.exceeded or not args.quiet):
            print(_line(count))
            _print_first(count.kind, problems)
    for difference in differences[:_DIFFERENCES]:
        print(f'{difference.change} since the manifest: {difference.name}')
    if len(differences) > _DIFFERENCES:
        print(f'... and {len(differences) - _DIFFERENCES:,} more')
    if args.out is not None and not args.quiet:
        print(f'report: {printable(str(args.out / "report.html"))}')
    exceeded = [count.kind for count in counts if count.exceeded]
    if exceeded:
        print(f'result: more problems than accepted: {", ".join(exceeded)}')
    elif differences:
        print('result: the data are not those of the manifest')
    elif not args.quiet:
        print('result: accepted')


def headline(summary: Mapping[str, Any]) -> str:
    """Return the counts in one line."""
    return (
        f'{summary["records"]:,} records ({summary["valid"]:,} valid), '
        f'{summary["images"]:,} images, {summary["turns"]:,} turns in '
        f'{summary["seconds"]:g} s'
    )


def _line(count: Count) -> str:
    limit = 'any'
    if count.limit is not None:
        limit = f'{count.limit.value:g}{"%" * count.limit.percent}'
    mark = 'x' if count.exceeded else '-'
    return (
        f'{mark} {count.kind}: {count.number:,} {KINDS[count.kind].title} '
        f'({100 * count.share:.2f} %; accepted: {limit})'
    )


def _print_first(kind: str, problems: Problems) -> None:
    for problem in problems.first[kind][:_NAMED]:
        reason = printable(problem.reason)
        name = printable(problem.name)
        named = not name or name in reason
        print(f'    {reason if named else f"{name}: {reason}"}'[:240])
    if problems.entries[kind] > _NAMED:
        print(f'    ... and {problems.entries[kind] - _NAMED:,} more')
