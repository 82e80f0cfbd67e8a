# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The problems of a data set: counted in memory, listed in a file."""

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

_KEPT = 200  # problems of a kind that remain in memory


class Problem(NamedTuple):
    """Something that is wrong.

    Attributes:
        kind: A key of :data:`~.limits.KINDS`.
        name: The record or image.
        reason: What is wrong.
        number: How many records or images it concerns.
    """

    kind: str
    name: str
    reason: str
    number: int = 1


class Problems:
    """Problems in their order.

    A temporary file has all of them, so that a problem of each of a million
    records needs no memory.

    Attributes:
        numbers: Records or images that the problems of a kind concern.
        entries: Problems of a kind.
        first: The first 200 problems of a kind.
    """

    def __init__(self) -> None:
        self.numbers: Counter[str] = Counter()
        self.entries: Counter[str] = Counter()
        self.first: dict[str, list[Problem]] = {}
        self._file = tempfile.TemporaryFile()  # noqa: SIM115

    def add(self, problem: Problem) -> None:
        """Add a problem."""
        kind = problem.kind
        self.numbers[kind] += problem.number
        self.entries[kind] += 1
        if self.entries[kind] <= _KEPT:
            self.first.setdefault(kind, []).append(problem)
        self._file.write(json.dumps(problem._asdict()).encode() + b'\n')

    def extend(self, problems: Iterable[Problem]) -> None:
        """Add problems."""
        for problem in problems:
            self.add(problem)

    @property
    def end(self) -> int:
        """Where the next problem begins in the file, in bytes."""
        return self._file.tell()

    def lines(self, start: int = 0) -> Iterator[bytes]:
        """Yield each problem as a line of JSON.

        Args:
            start: Where the first one begins; see :attr:`end`.
        """
        self._file.seek(start)
        yield from self._file
        self._file.seek(0, 2)

    def __iter__(self) -> Iterator[Problem]:
        for line in self.lines():
            yield Problem(**json.loads(line))
