# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""What runs in the process of an actor: one worker with its model."""

import os
import socket
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import minigpt4

from ..utils.errors import describe

# makes a worker: a function of a chunk to its results
WorkerMaker = Callable[[], Callable[[Any], Iterable[Any]]]
PREFIX = 'MINIGPT4_'  # of the variables that the actors get


class ActorFailure(NamedTuple):
    """Why an actor could not do its work. Any exception can be pickled so.

    Attributes:
        message: The error in one sentence.
        host: The machine of the actor.
        traceback: Its traceback, for ``--debug``.
    """

    message: str
    host: str
    traceback: str


class ActorStart(NamedTuple):
    """What an actor needs before its first chunk.

    Attributes:
        make: Makes its worker.
        threads: Threads of torch; 0 leaves them as they are.
        folder: The current folder of the command, for relative names.
        environment: Variables of the command, see :data:`PREFIX`.
        version: The version of this package.
    """

    make: WorkerMaker
    threads: int
    folder: str
    environment: Mapping[str, str]
    version: str


class WorkerActor:
    """Holds a worker; Ray runs each of them in a process of its own."""

    def start(self, given: ActorStart) -> ActorFailure | None:
        """Make the worker, as the command would do it.

        Returns:
            Why it cannot be made; None if it is ready.
        """
        try:
            _require_equal(given)
            os.environ.update(given.environment)
            if given.threads:
                import torch

                torch.set_num_threads(given.threads)
            self._work = given.make()
        except Exception as error:  # of any kind; the command reports it
            return _failure(error)
        return None

    def run(self, chunk: Any) -> tuple[list[Any], ActorFailure | None]:
        """Work on a chunk.

        Returns:
            Its results, and why there are no more of them, if so.
        """
        results: list[Any] = []
        try:
            results.extend(self._work(chunk))
        except Exception as error:  # of any kind; the command reports it
            return results, _failure(error)
        return results, None


def _require_equal(given: ActorStart) -> None:
    """Refuse a machine that would give other results, or none."""
    if given.version != minigpt4.__version__:
        raise ValueError(
            f'it has minigpt4 {minigpt4.__version__}, the command '
            f'{given.version}; install the same version on all machines.'
        )
    try:
        os.chdir(given.folder)
    except OSError as error:
        raise FileNotFoundError(
            f'the folder {given.folder} of the command is not there; all '
            'machines need the same files at the same place.'
        ) from error


def _failure(error: Exception) -> ActorFailure:
    text = ''.join(traceback.format_exception(error))
    return ActorFailure(describe(error), socket.gethostname(), text)
