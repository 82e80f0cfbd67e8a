# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Read Parquet files, and folders that Hugging Face ``datasets`` saved.

``save_to_disk`` writes Arrow streams, which pyarrow reads: the package
``datasets`` is not needed.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..datasets.json_values import parse_json
from ..utils.regular_files import NotRegularFileError, open_regular
from ..utils.text_files import read_text
from .import_items import Item, ReadOptions
from .import_tables import column_names_of, rename, texts_of

_BATCH_ROWS = 256  # with images of 1 MB a quarter of a GB


def _pyarrow() -> Any:
    """Import pyarrow.

    Raises:
        ImportError: It is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            'Parquet and Arrow files are read with pyarrow, which is not '
            "installed; run: pip install 'minigpt4[parquet]'."
        ) from error
    return pyarrow


def parquet_files(path: Path) -> list[Path]:
    """The Parquet files of a folder and its subfolders; a file itself."""
    return [path] if path.is_file() else sorted(path.rglob('*.parquet'))


def read_parquet(path: Path, options: ReadOptions) -> Iterator[Item]:
    """Read Parquet; an image is a path, a URL, or bytes in the file.

    Raises:
        ImportError: pyarrow is not installed.
        ValueError: A column of images or of texts is missing.
    """
    pyarrow = _pyarrow()
    for file in parquet_files(path):
        try:
            with (
                open_regular(file) as source,
                pyarrow.parquet.ParquetFile(source) as table,
            ):
                batches = table.iter_batches(_BATCH_ROWS)
                yield from _items(file, batches, table.schema_arrow, options)
        except (
            pyarrow.ArrowException,
            OSError,
            NotRegularFileError,
        ) as error:
            reason = ' '.join(str(error).split())[:200]
            yield Item(file, 0, None, f'cannot be read ({reason})')


def saved_files(path: Path) -> list[Path]:
    """The Arrow files of a folder that ``save_to_disk`` wrote.

    Raises:
        ValueError: The lists of files in the folder are damaged.
    """
    if path.is_file():
        return [path]
    splits = path / 'dataset_dict.json'
    folders = [path]
    if splits.is_file():
        folders = [path / s for s in _json(splits).get('splits', [])]
    files = []
    for folder in folders:
        for entry in _json(folder / 'state.json').get('_data_files', []):
            files.append(folder / entry['filename'])
    return files


def _json(path: Path) -> dict:
    try:
        value = parse_json(read_text(path))
    except (OSError, ValueError) as error:
        raise ValueError(
            f'{path} cannot be read ({error}); save the data set again with '
            'save_to_disk.'
        ) from error
    return value if isinstance(value, dict) else {}


def read_saved(path: Path, options: ReadOptions) -> Iterator[Item]:
    """Read a data set that Hugging Face ``datasets`` saved to disk.

    Raises:
        ImportError: pyarrow is not installed.
        ValueError: A column of images or of texts is missing.
    """
    pyarrow = _pyarrow()
    for file in saved_files(path):
        try:
            open_regular(file).close()  # pyarrow would wait at a FIFO
            with pyarrow.memory_map(str(file)) as source:
                stream = pyarrow.ipc.open_stream(source)
                yield from _items(file, stream, stream.schema, options)
        except (
            pyarrow.ArrowException,
            OSError,
            NotRegularFileError,
        ) as error:
            reason = ' '.join(str(error).split())[:200]
            yield Item(file, 0, None, f'cannot be read ({reason})')


def _items(
    file: Path, batches: Any, schema: Any, options: ReadOptions
) -> Iterator[Item]:
    names = column_names_of(list(schema.names), options, file)
    number = 0
    for batch in batches:
        for start in range(0, batch.num_rows, _BATCH_ROWS):
            rows = batch.slice(start, _BATCH_ROWS).to_pylist()
            for row in rows:
                number += 1
                yield from _row(file, number, rename(row, *names))


def _row(file: Path, number: int, record: dict) -> Iterator[Item]:
    data, record['image'] = _image_of(record['image'], file, number)
    record = {k: v for k, v in record.items() if _is_json(v)}
    for each in texts_of(record):
        yield Item(file, number, each, unit='row', image=data)


def _image_of(value: Any, file: Path, number: int) -> tuple[bytes | None, Any]:
    """The bytes and the name of an image in a cell."""
    stem = f'{file.name.partition(".")[0]}-{number:08d}'
    if isinstance(value, bytes):
        return value, stem
    if isinstance(value, dict) and {'bytes', 'path'} & set(value):
        # the feature Image of datasets
        if value.get('bytes') is None:
            return None, value.get('path')
        return value['bytes'], stem
    return None, value


def _is_json(value: Any) -> bool:
    if isinstance(value, (str, int, float, bool, type(None))):
        return True
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return False
    return True
