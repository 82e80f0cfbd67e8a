# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Import of results from a JSONL file: a run of release 0.1, or an export.

Release 0.1 appended each result to ``OUTPUT.jsonl`` and resumed from it. An
export of this release has the same lines, so it can replace a lost database.
"""

import errno
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..utils.errors import printable
from ..utils.locks import lock_file
from ..utils.regular_files import open_regular
from .results import CaptionResult, ResultsDatabase, require_provenance

_LINE_START = b'{"image": '  # of every line that we write
_MAX_INTEGER = 2**63 - 1  # of SQLite
_INTEGERS = ('tokens', 'bytes', 'modified_ns')
# field: its types in JSON
_TYPES: dict[str, tuple[type, ...]] = dict(
    image=(str,),
    prompt=(str,),
    caption=(str, type(None)),
    error=(str, type(None)),
    finished=(bool, type(None)),
    tokens=(int, type(None)),
    bytes=(int, type(None)),
    modified_ns=(int, type(None)),
    model=(str,),
    weights=(str, type(None)),
    settings=(dict, type(None)),
)


def import_jsonl(path: Path, database: ResultsDatabase) -> str:
    """Store all results of a JSONL file, or none; the file is not changed.

    A last line that was cut off is omitted, with zeros that a crash left.

    Args:
        path: The JSONL file.
        database: Where to store them.

    Returns:
        A sentence with the number of results, for the user.

    Raises:
        BlockingIOError: A run of release 0.1 writes the file.
        NotRegularFileError: ``path`` is a FIFO, a device or a folder.
        ValueError: A line is no result, or a result of another model,
            checkpoint or settings.
        OSError: It cannot be read.
    """
    cut_off: list[int] = []
    with open_regular(path) as file:
        if not lock_file(file):  # as release 0.1 does
            raise BlockingIOError(
                errno.EWOULDBLOCK,
                f'another run is writing {path}; wait for it',
            )
        database.add(_results(file, path, database.provenance, cut_off))
    omitted = ''.join(
        f'; its last line ({number}) was cut off and is omitted'
        for number in cut_off
    )
    return printable(
        f'{path}: {len(database):,} results were imported into '
        f'{database.path}{omitted}.'
    )


def _results(
    lines: Iterator[bytes],
    path: Path,
    provenance: dict[str, Any],
    cut_off: list[int],
) -> Iterator[CaptionResult]:
    for number, line in enumerate(lines, 1):
        result = _decode(line)
        if result is not None:
            source = f'{path} (line {number})'
            require_provenance(result.provenance, provenance, source)
            yield result
        elif _is_cut_off(line):
            cut_off.append(number)
        else:
            raise ValueError(
                f'{path} holds something else than captions (line {number}'
                f'{_unknown_columns(line)}); give another -o, or --overwrite '
                'to begin again, or remove that line.'
            )


def _decode(line: bytes) -> CaptionResult | None:
    """Decode the result of a line; None if it has none."""
    try:
        fields = json.loads(line)
        result = CaptionResult(**fields)
    except (TypeError, ValueError, RecursionError):
        return None
    valid = all(type(fields[name]) in _TYPES[name] for name in fields)
    valid = valid and all(
        abs(fields.get(name) or 0) <= _MAX_INTEGER for name in _INTEGERS
    )
    answered = result.caption is not None or result.error is not None
    return result if valid and answered else None


def _unknown_columns(line: bytes) -> str:
    """Name the unknown columns of a result of a later release."""
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return ''
    if not isinstance(fields, dict) or not {'image', 'prompt'} <= {*fields}:
        return ''
    unknown = [name for name in fields if name not in _TYPES]
    if not unknown:
        return ''
    names = printable(', '.join(unknown))[:200]
    return f', with columns that this version does not know: {names}'


def _is_cut_off(line: bytes) -> bool:
    """Whether a last line is the start of a result, or zeros."""
    if line.endswith(b'\n') or _unknown_columns(line):
        return False
    line = line.rstrip(b'\0')
    return line.startswith(_LINE_START) or _LINE_START.startswith(line)
