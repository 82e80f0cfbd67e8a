# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The files that a model needs: list them, download and check them."""

import argparse
import difflib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from rich import box
from rich.console import Console
from rich.filesize import decimal as in_units
from rich.table import Table
from rich.text import Text

from .utils.errors import one_line, printable
from .weights import download
from .weights.hub import our_models
from .weights.shipped import shipped_or_local


@dataclass(frozen=True)
class Needed:
    """A file that a model needs.

    Attributes:
        part: Which part of the model it is for.
        source: Its URL, or the path of a local file.
    """

    part: str
    source: str

    @property
    def is_url(self) -> bool:
        """Whether it has to be fetched."""
        return self.source.startswith(('http://', 'https://'))


def needed_files(name: str) -> tuple[list[Needed], str]:
    """The files of one of our models, and its LLM as the config names it.

    Raises:
        ValueError: The hub has no such model of ours.
    """
    from mmengine.config import Config

    models = our_models()
    if name.lower() not in models:
        close = difflib.get_close_matches(name.lower(), models, cutoff=0.5)
        raise ValueError(
            f'there is no model {name!r}; '
            + (
                f'did you mean {" or ".join(close)}?'
                if close
                else f'there are {", ".join(models)}.'
            )
        )
    model = models[name.lower()]
    parts = Config.fromfile(model.config).model
    sources = {
        'backbone': parts.backbone.get('checkpoint'),
        'neck': parts.neck.get('checkpoint'),
        'head': model.weights,
    }
    files = [
        Needed(part, source) for part, source in sources.items() if source
    ]
    return files, parts.decoder.name_or_path


def download_model(args: argparse.Namespace) -> int:
    """Download the files of a model, or list them.

    Args:
        args: The options of :mod:`minigpt4_cli.download`.

    Returns:
        0; 1 if a file could not be downloaded; 2 for a name that is unknown.
    """
    if args.list or not args.what:
        return _list()
    if '://' in args.what:
        _check_address(args.what)
        files, llm = [Needed('file', args.what)], None
    else:
        try:
            files, llm = needed_files(args.what)
        except ValueError as error:
            print(f'error: {one_line(error)}', file=sys.stderr)
            return 2
    table, failures = _table('Part', 'File', 'Size', 'Checked', 'Place'), []
    for file in files:
        try:
            cells = _row(file, args)
        except (OSError, ValueError) as error:
            failures.append(one_line(error))
            cells = file.part, _name(file), '', '', 'not here'
        # as Text, or rich would take brackets for markup
        table.add_row(*(Text(printable(cell)) for cell in cells))
    _print(table)
    if llm is not None:
        if not any(file.part == 'head' for file in files):
            print(
                f'head: no projection is hosted for {args.what}; give the '
                "file of one: get_model(name, pretrained='FILE')."
            )
        try:
            print(f'LLM: {printable(_llm(llm, args))}')
        except (OSError, ValueError) as error:
            failures.append(one_line(error))
    if args.dest is not None and any(file.is_url for file in files):
        folder = printable(str(args.dest))
        print(f'to use them from there: export MINIGPT4_CACHE={folder}')
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


def _check_address(address: str) -> None:
    """Refuse what is not a web address of a file.

    Raises:
        ValueError: It is another kind of address, or broken.
    """
    try:
        scheme = urlsplit(address).scheme.lower()
    except ValueError as error:
        raise ValueError(
            f'{address} is not an address of a file ({error}).'
        ) from error
    if scheme not in ('http', 'https'):
        raise ValueError(
            f'{address} is a {scheme} address; expected http or https.'
        )


def _row(file: Needed, args: argparse.Namespace) -> tuple[str, ...]:
    """A file's row, once it is there."""
    if not file.is_url:
        return _local_row(file)
    folder = args.dest or download.cache_folder()
    path = folder / _name(file)
    if not args.dry_run:
        path = download.fetch(file.source, sha256=args.sha256, folder=folder)
    wanted = download.expected_hash(file.source, args.sha256)
    record = download.record_of(path)
    return (
        file.part,
        file.source if args.dry_run else _name(file),
        in_units(record['size']) if record else '?',
        record.get('checked') or download.how_checked(wanted),
        str(path) if record else f'would go to {path}',
    )


def _local_row(file: Needed) -> tuple[str, ...]:
    """The row of a file that is no URL: shipped, or the user's."""
    path = shipped_or_local(file.source)
    if not path.is_file():
        raise FileNotFoundError(
            f'{file.part}: {file.source} does not exist; install the package '
            'again, or set the checkpoint of the config.'
        )
    size = in_units(path.stat().st_size)
    return file.part, path.name, size, '-', str(path)


def _llm(name: str, args: argparse.Namespace) -> str:
    """Where the LLM is, or what to do for it.

    Raises:
        OSError: It was asked for and cannot be fetched.
    """
    from .llm.load import LLM_VARIABLE, locate_llm

    where = locate_llm(name)
    if Path(where).exists():
        return where
    if not args.llm or args.dry_run:
        does = 'would be fetched' if args.llm else 'not fetched: add --llm'
        return (
            f'{where} of the Hugging Face hub, {does}, or name a folder of '
            f'yours in {LLM_VARIABLE}.'
        )
    folder = args.dest and args.dest / where.rpartition('/')[2]
    found = _fetch_llm(where, folder)
    return f'{found} (export {LLM_VARIABLE}={found})'


def _fetch_llm(repository: str, folder: Path | None) -> str:
    """Bring a repository of the hub to a folder, or to the hub's own cache.

    Raises:
        ConnectionError: It cannot be had.
    """
    from .llm.load import fetch_llm

    try:
        return fetch_llm(repository, folder)
    except Exception as error:  # its errors have no base of their own
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ConnectionError(
            f'the LLM {repository} could not be fetched from the Hugging '
            f'Face hub ({lines[0]}); download it elsewhere and name its '
            'folder in MINIGPT4_LLM.'
        ) from error


def _list() -> int:
    """Print every model with its files."""
    table = _table('Model', 'Part', 'File', 'Checked', 'Here')
    for name in our_models():
        files, llm = needed_files(name)
        for file in files:
            if file.is_url:
                wanted = download.expected_hash(file.source)
                path = download.cache_folder() / _name(file)
                here = bool(download.record_of(path))
                row = file.source, download.how_checked(wanted)
            else:
                row, here = (_name(file), ''), True
            table.add_row(name, file.part, *row, 'yes' if here else 'no')
            name = ''
        table.add_row(name, 'LLM', llm, '', '', end_section=True)
    _print(table)
    return 0


def _name(file: Needed) -> str:
    return download.file_name(file.source)


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, overflow='fold')
    return table


def _print(table: Table) -> None:
    """Print a table; in a file, as wide as it is."""
    width = None if sys.stdout.isatty() or 'COLUMNS' in os.environ else 240
    Console(width=width).print(table)
