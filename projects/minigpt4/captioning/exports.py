# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Exports of caption results: JSONL, CSV and Parquet.

JSONL has every text exactly. CSV protects its cells against spreadsheets
(see :mod:`.csv_escaping`). CSV and Parquet write bytes of a file name that are
not valid Unicode as ``\\udcXX``.
"""

import csv
import importlib.util
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..utils.atomic import replacing
from .csv_escaping import protected_cell
from .results import CaptionResult

COLUMNS = tuple(field.name for field in fields(CaptionResult))
_PARQUET_BATCH = 10_000  # results in memory


def require_pyarrow() -> None:
    """Refuse Parquet without pyarrow.

    Raises:
        ModuleNotFoundError: It is not installed.
    """
    if importlib.util.find_spec('pyarrow') is None:
        raise ModuleNotFoundError(
            "a Parquet file needs pyarrow; pip install 'minigpt4[parquet]', "
            'or give -o FILE.csv or FILE.jsonl.'
        )


def write_export(results: Iterable[CaptionResult], path: Path) -> None:
    """Write a JSONL, CSV or Parquet file; a failure leaves the old file.

    Args:
        results: The results.
        path: Its suffix is one of :data:`SUFFIXES`. The target of a symbolic
            link is replaced, not the link.

    Raises:
        OSError: It cannot be written.
    """
    write = _WRITERS[path.suffix]
    with replacing(os.path.realpath(path)) as temporary:
        write(results, temporary)
        with open(temporary, 'rb') as file:
            os.fsync(file.fileno())


def _write_jsonl(results: Iterable[CaptionResult], path: Path) -> None:
    with open(path, 'wb') as file:
        for result in results:
            try:
                line = json.dumps(vars(result), ensure_ascii=False).encode()
            except UnicodeEncodeError:  # a file name that is not UTF-8
                line = json.dumps(vars(result)).encode()
            file.write(line + b'\n')


def _plain_columns(result: CaptionResult) -> dict[str, Any]:
    """Columns without nested values and lone surrogates."""
    settings = json.dumps(result.settings or {}, ensure_ascii=False)
    return {
        name: value.encode(errors='backslashreplace').decode()
        if isinstance(value, str)
        else value
        for name, value in {**vars(result), 'settings': settings}.items()
    }


def _csv_cells(result: CaptionResult) -> dict[str, Any]:
    return {
        name: protected_cell(value) if isinstance(value, str) else value
        for name, value in _plain_columns(result).items()
    }


def _write_csv(results: Iterable[CaptionResult], path: Path) -> None:
    with open(path, 'w', encoding='utf-8', newline='') as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(map(_csv_cells, results))


def _write_parquet(results: Iterable[CaptionResult], path: Path) -> None:
    require_pyarrow()
    import pyarrow
    from pyarrow import parquet

    types = dict(
        finished=pyarrow.bool_(),
        tokens=pyarrow.int32(),
        bytes=pyarrow.int64(),
        modified_ns=pyarrow.int64(),
    )
    schema = pyarrow.schema(
        [(name, types.get(name, pyarrow.string())) for name in COLUMNS]
    )
    with parquet.ParquetWriter(path, schema) as writer:
        batch: list[dict] = []
        for result in results:
            batch.append(_plain_columns(result))
            if len(batch) == _PARQUET_BATCH:
                writer.write_table(pyarrow.Table.from_pylist(batch, schema))
                batch = []
        writer.write_table(pyarrow.Table.from_pylist(batch, schema))


_WRITERS: dict[str, Callable[[Iterable[CaptionResult], Path], None]] = {
    '.jsonl': _write_jsonl,
    '.csv': _write_csv,
    '.parquet': _write_parquet,
}
SUFFIXES = tuple(_WRITERS)
