# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The server's log: one line per event, without control characters.

Log lines contain paths, names and error texts of requests. Control
characters in them are escaped, so that a request can neither add lines nor
send escape sequences to a terminal.
"""

import asyncio
import copy
import logging
import time
import traceback
from typing import Any

from uvicorn.config import LOGGING_CONFIG
from uvicorn.logging import AccessFormatter, DefaultFormatter

from ...utils.errors import printable

_ACCEPT_SECONDS = 60.0  # between two lines about failed accepts

logger = logging.getLogger('uvicorn.error')


def _escaped(record: logging.LogRecord) -> logging.LogRecord:
    """Copy a record with control characters escaped."""
    record = copy.copy(record)
    if isinstance(record.args, tuple) and record.args:
        record.args = tuple(
            arg if isinstance(arg, (int, float)) else printable(str(arg))
            for arg in record.args
        )
    else:
        record.msg, record.args = printable(record.getMessage().rstrip()), None
    if record.exc_info:
        text = ''.join(traceback.format_exception(*record.exc_info))
        # keep the line breaks of a traceback
        record.exc_text = '\n'.join(map(printable, text.rstrip().split('\n')))
    return record


class PrintableFormatter(DefaultFormatter):
    """Uvicorn's format of a log line, with control characters escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record as one line, plus its traceback."""
        return super().format(_escaped(record))


class PrintableAccessFormatter(AccessFormatter):
    """Uvicorn's access log format, with control characters escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record as one line."""
        return super().format(_escaped(record))


def log_config(level: str = 'INFO') -> dict[str, Any]:
    """Build uvicorn's configuration of :mod:`logging`, with escaping.

    Args:
        level: The level of uvicorn's loggers.
    """
    config = copy.deepcopy(LOGGING_CONFIG)
    here = PrintableFormatter.__module__
    config['formatters']['default']['()'] = f'{here}.PrintableFormatter'
    config['formatters']['access']['()'] = f'{here}.PrintableAccessFormatter'
    for each in config['loggers'].values():
        each['level'] = level
    return config


def escape_other_logs() -> None:
    """Escape log messages and warnings of other libraries too."""
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter('%(levelprefix)s %(message)s'))
    logging.getLogger().addHandler(handler)
    logging.captureWarnings(True)


class AcceptErrors:
    """An error handler of the event loop that limits repeated messages.

    While no file descriptor is free, asyncio reports each attempt to accept
    a connection, thousands per second.
    """

    def __init__(self) -> None:
        self._next = 0.0
        self._unreported = 0

    def __call__(
        self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]
    ) -> None:
        """Log an error of the event loop."""
        error = context.get('exception')
        if not isinstance(error, OSError) or 'accept' not in context.get(
            'message', ''
        ):
            loop.default_exception_handler(context)
            return
        self._unreported += 1
        now = time.monotonic()
        if now >= self._next:
            logger.error(
                'no connection can be accepted (%s, %d attempts); raise the '
                'limit of open files (ulimit -n) or lower --max-connections',
                error.strerror,
                self._unreported,
            )
            self._next, self._unreported = now + _ACCEPT_SECONDS, 0
