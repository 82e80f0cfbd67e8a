# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The folder of an evaluation: settings, raw results and scores.

``settings.json`` has the protocol and every setting that a result depends on,
``NAME.jsonl`` one raw result a line, ``summary.json`` the scores. A run that
was interrupted continues in its folder; results of other settings are never
mixed. Settings of a folder without any result are replaced.
"""

import contextlib
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from ..prompts.text_validation import json_type
from ..utils.atomic import make_folder, replacing, write_atomically
from ..utils.errors import printable, short_json
from ..utils.json_files import read_json
from ..utils.locks import lock_file
from ..utils.regular_files import open_regular

SETTINGS_FILE, SUMMARY_FILE = 'settings.json', 'summary.json'


class ResultFolder:
    """Raw results of one protocol with one set of settings.

    Args:
        folder: The folder; it is created. None stores nothing.
        protocol: Name of the protocol.
        settings: What the results depend on, as a JSON object.
        results_file: Name of the file of raw results, e.g. ``losses.jsonl``.
        overwrite: Whether results of other settings are replaced.

    Attributes:
        rows: The raw results: first those that an earlier run stored.

    Raises:
        ValueError: The folder has results of other settings, is damaged, or
            is in use by another process.
        OSError: A file cannot be read or written.
    """

    def __init__(
        self,
        folder: Path | None,
        protocol: str,
        settings: dict[str, Any],
        results_file: str,
        overwrite: bool = False,
    ) -> None:
        self.folder = folder
        self.settings = settings
        self.protocol = protocol
        self.rows: list[dict[str, Any]] = []
        self._file: BinaryIO | None = None
        self._ends = [0]  # of the rows, in bytes
        if folder is None:
            return
        make_folder(folder)
        path = self._path = folder / results_file
        path.touch()
        open_regular(path).close()  # refuses a FIFO, which would block
        self._file = open(path, 'r+b')
        try:
            if not lock_file(self._file):
                raise ValueError(
                    f'another process writes to {folder}; wait until it ends, '
                    'or give another -o.'
                )
            if overwrite:
                (folder / SETTINGS_FILE).unlink(missing_ok=True)
                self._file.truncate()
            self._check_settings(folder / SETTINGS_FILE)
            self._read_rows()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> 'ResultFolder':
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file of raw results."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _check_settings(self, path: Path) -> None:
        """Compare the settings with those of the folder, or store them."""
        expected = dict(protocol=self.protocol, **self.settings)
        if not path.exists():
            write_atomically(path, _pretty(expected))
            return
        found = _read_settings(path, 'give another -o, or --overwrite')
        differences = [
            f'{key} {short_json(found.get(key))} instead of '
            f'{short_json(expected.get(key))}'
            for key in sorted({*found, *expected})
            if found.get(key) != expected.get(key)
        ]
        if not differences:
            return
        if self._has_results():
            raise ValueError(
                f'{path.parent} has results of other settings '
                f'({"; ".join(differences)}); give another -o, or '
                '--overwrite.'
            )
        write_atomically(path, _pretty(expected))

    def _has_results(self) -> bool:
        """Whether a file of the folder has results, or will get some."""
        assert self.folder is not None and self._file is not None
        for path in self.folder.glob('*.jsonl'):
            if path.stat().st_size:
                return True
            if path.samefile(self._path):
                continue  # its lock is that of this process
            with open_regular(path) as file:
                if not lock_file(file):
                    return True
        return False

    def _read_rows(self) -> None:
        """Read complete lines; a line that was cut is removed."""
        assert self._file is not None
        for line in self._file:
            row = None
            if line.endswith(b'\n'):
                with contextlib.suppress(ValueError, RecursionError):
                    row = json.loads(line)
            if not isinstance(row, dict):
                break
            self.rows.append(row)
            self._ends.append(self._ends[-1] + len(line))
        end = self._ends[-1]
        rest = self._file.seek(0, 2) - end
        self._file.seek(end)
        if rest and b'\n' in self._file.read()[:-1]:
            raise ValueError(
                f'{self._path} is damaged (byte {end:,} does not begin a '
                'line of JSON); give another -o, or --overwrite.'
            )
        self._file.seek(end)
        self._file.truncate()

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Store raw results; those of one call are written together.

        Raises:
            OSError: They cannot be written, e.g. on a full disk.
        """
        self.rows.extend(rows)
        if self._file is not None:
            lines = [*map(_line, rows)]
            for line in lines:
                self._ends.append(self._ends[-1] + len(line))
            try:
                self._file.write(b''.join(lines))
                self._file.flush()
            except OSError as error:
                raise OSError(
                    error.errno,
                    f'{error.strerror}; results before are kept, make space '
                    'and give the same command again',
                    str(self._path),
                ) from error

    def keep(self, number: int) -> None:
        """Remove all raw results after the first ``number``."""
        del self.rows[number:]
        if self._file is not None:
            del self._ends[number + 1 :]
            self._file.seek(self._ends[-1])
            self._file.truncate()

    def sort(self, key: Callable[[dict[str, Any]], Any]) -> None:
        """Sort the raw results, those of the file too.

        Answers end in an order that depends on the batches; the file of a
        complete run does not.

        Args:
            key: What a result is sorted by.

        Raises:
            OSError: The file cannot be written; it is as it was.
        """
        ordered = sorted(self.rows, key=key)
        if ordered == self.rows:
            return
        self.rows = ordered
        if self._file is None:
            return
        lines = [*map(_line, ordered)]
        with replacing(self._path) as temporary:
            file = open(temporary, 'w+b')
            try:
                lock_file(file)  # before it has the name
                file.write(b''.join(lines))
                file.flush()
                os.fsync(file.fileno())
            except BaseException:
                file.close()
                raise
        self.close()
        self._file = file
        self._ends = [0, *itertools.accumulate(map(len, lines))]

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write ``summary.json``: the settings, then the scores."""
        if self.folder is not None:
            write_summary(self.folder, self.protocol, self.settings, summary)


def _line(row: dict[str, Any]) -> bytes:
    line = json.dumps(row, ensure_ascii=False) + '\n'
    return line.encode(errors='backslashreplace')


def read_settings(folder: Path) -> dict[str, Any]:
    """Read ``settings.json``: the protocol and the settings.

    Raises:
        ValueError: The folder has no results of a protocol.
        OSError: The file cannot be read.
    """
    path = folder / SETTINGS_FILE
    if not path.exists():
        below = sorted(found.parent for found in folder.glob(f'*/{path.name}'))
        if below:  # as of "minigpt4 eval paper"
            raise ValueError(
                f'{folder} has results of several measurements; give one of '
                f'its folders, such as {printable(str(below[0]))}.'
            )
        raise ValueError(
            f'{folder} has no {SETTINGS_FILE}; expected the -o of '
            '"minigpt4 eval".'
        )
    return _read_settings(path, 'give the -o of "minigpt4 eval"')


def read_summary(folder: Path) -> dict[str, Any]:
    """Read ``summary.json``, which belongs to the settings of its folder.

    Raises:
        ValueError: The folder has no results of a protocol, its run has not
            ended, or the summary is of other settings.
        OSError: A file cannot be read.
    """
    settings = read_settings(folder)
    path = folder / SUMMARY_FILE
    if not path.exists():
        raise ValueError(
            f'{folder} has no {SUMMARY_FILE}, so its run is not complete; '
            'the command that made it continues it.'
        )
    again = 'the command that made it writes it again'
    try:
        summary = read_json(path, 'the summary of an evaluation')
    except ValueError as error:
        raise ValueError(
            f'{str(error).removesuffix(".")}; {again}.'
        ) from error
    if not isinstance(summary, dict):
        raise ValueError(
            f'{path} is not the summary of an evaluation '
            f'(it is {json_type(summary)}); {again}.'
        )
    protocol = settings.pop('protocol')
    if (
        summary.get('protocol') != protocol
        or summary.get('settings') != settings
    ):
        raise ValueError(
            f'{folder}: {SUMMARY_FILE} is of other settings than '
            f'{SETTINGS_FILE}, so its run is not complete; the command that '
            'made it continues it.'
        )
    return summary


def _read_settings(path: Path, action: str) -> dict[str, Any]:
    """Read the settings of an evaluation.

    Args:
        path: The file.
        action: What to do if it has something else.

    Raises:
        ValueError: It has.
        OSError: The file cannot be read.
    """
    try:
        found = read_json(path, 'the settings of an evaluation')
    except ValueError as error:
        raise ValueError(
            f'{str(error).removesuffix(".")}; {action}.'
        ) from error
    if not isinstance(found, dict) or not isinstance(
        found.get('protocol'), str
    ):
        reason = 'it has no protocol'
        if not isinstance(found, dict):
            reason = f'it is {json_type(found)}'
        raise ValueError(
            f'{path} is not the settings of an evaluation ({reason}); '
            f'{action}.'
        )
    return found


def write_summary(
    folder: Path,
    protocol: str,
    settings: dict[str, Any],
    summary: dict[str, Any],
) -> None:
    """Write ``summary.json``: protocol and settings, then the scores."""
    content = dict(protocol=protocol, settings=settings, **summary)
    write_atomically(folder / SUMMARY_FILE, _pretty(content))


def file_digest(path: Path) -> str:
    """Digest the bytes of a file: 16 hexadecimal digits.

    Raises:
        OSError: It cannot be read.
    """
    digest = hashlib.blake2b(digest_size=8)
    with open_regular(path) as file:
        while data := file.read(2**20):
            digest.update(data)
    return digest.hexdigest()


def format_score(score: dict[str, Any], unit: str = '') -> str:
    """Write a value with its interval: ``2.861 (2.790 to 2.935)``.

    Args:
        score: ``value`` and ``interval``; None where there was nothing to
            count.
        unit: ``'%'`` for a share.
    """
    if score['value'] is None:
        return 'not defined'
    factor, digits = (100, 2) if unit == '%' else (1, 3)
    value, *ends = (
        f'{factor * number:.{digits}f}'
        for number in (score['value'], *(score['interval'] or ()))
    )
    interval = f' ({" to ".join(ends)})' if ends else ''
    return f'{value}{" %" * bool(unit)}{interval}'


def _pretty(value: dict[str, Any]) -> bytes:
    text = json.dumps(value, ensure_ascii=False, indent=2) + '\n'
    return text.encode(errors='backslashreplace')
