# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Run of ``minigpt4 data browse``: index the data and serve the page."""

import argparse
import contextlib
import signal
import socket
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import uvicorn

from ...data_tools.data_items import DataItem, iterate
from ...data_tools.find_data import FoundData, find_data
from ...data_tools.prompt_tokens import PromptTokens
from ...loading import quiet_logs
from ...utils.errors import describe, printable
from ...utils.signals import raise_on_signals
from ..http.logs import log_config
from ..http.serve import bind
from .app import build_app
from .record_index import RecordIndex

_HOST = '127.0.0.1'


class _Server(uvicorn.Server):
    """A server that prints a greeting and stops at the first signal."""

    def __init__(self, config: uvicorn.Config, greeting: str) -> None:
        super().__init__(config)
        self.greeting = greeting

    async def startup(
        self, sockets: list[socket.socket] | None = None
    ) -> None:
        """Start to accept requests, and print the greeting."""
        await super().startup(sockets=sockets)
        print(self.greeting, flush=True)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop; at the second signal without waiting for requests."""
        self.force_exit = self.should_exit
        self.should_exit = True


def browse_data(args: argparse.Namespace) -> int:
    """Serve the page until a signal stops the server.

    Args:
        args: The options of :mod:`minigpt4_cli.data_browse`.

    Returns:
        0.

    Raises:
        ValueError: A source or the model is invalid.
        OSError: A file is missing, or the port cannot be used.
    """
    with (
        raise_on_signals(),
        contextlib.closing(bind(_HOST, args.port)) as listener,
        tempfile.TemporaryDirectory(prefix='minigpt4-browse-') as folder,
    ):
        with quiet_logs():
            found = find_data(args.sources)
            prompts = PromptTokens(args.model)
        for line in found.ignored:
            print(f'note: {line}')
        index = RecordIndex(Path(folder) / 'records.sqlite')
        reader = threading.Thread(
            target=_fill, args=(index, found, args.images), daemon=True
        )
        reader.start()
        try:
            _serve(
                build_app(index, prompts, ', '.join(args.sources)), listener
            )
        finally:
            index.stop()
            reader.join(10)
    return 0


def _serve(app: object, listener: socket.socket) -> None:
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        ws='none',
        lifespan='off',
        server_header=False,
        log_config=log_config('WARNING'),
        access_log=False,
        timeout_graceful_shutdown=3,
    )
    port = listener.getsockname()[1]
    server = _Server(
        config, f'browse page: http://{_HOST}:{port}/\nCtrl+C stops it.'
    )
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, server.handle_exit)
    server.run(sockets=[listener])


def _fill(
    index: RecordIndex, found: FoundData, image_folder: 'Path | None'
) -> None:
    """Fill the index in a thread; an error is shown by the page."""

    def items() -> Iterator[DataItem]:
        while found.parts:  # so that the records in memory are freed
            part = found.parts.pop(0)
            yield from iterate(part, lambda kind, text: None, image_folder)

    try:
        index.fill(items())
        index.complete = True
    except (OSError, ValueError, sqlite3.Error) as error:
        index.error = describe(error)
        print(f'error: {printable(index.error)}', flush=True)
