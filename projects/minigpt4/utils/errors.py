# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""How an error is shown to a user: one line, or the traceback on request."""

import argparse
import contextlib
import functools
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from .signals import exit_status


class UserError(Exception):
    """Base of errors of other types whose message is for the user."""


# Errors whose message is a sentence for the user. Any other type is a fault
# of the program, so its name is printed too.
EXPECTED_ERRORS = (ImportError, OSError, ValueError, UserError)
_HARMLESS = '\u3000\u200d'  # ideographic space, joiner of emoji


def printable(text: str) -> str:
    r"""Escape what a terminal or a log would interpret.

    Args:
        text: Any text, e.g. a file name or part of a data record.

    Returns:
        The text with control characters, line separators, text-direction
        controls and lone surrogates written as ``\n``, ``\x1b``, ``\u2028``.
    """
    if text.isprintable():
        return text
    return ''.join(
        char
        if char.isprintable() or char in _HARMLESS
        else char.encode('unicode_escape').decode('ascii')
        for char in text
    )


def one_line(error: BaseException) -> str:
    """Give the message of an error in one printable line.

    Args:
        error: The error. The number of an operating-system error is left
            out; its file name is kept.
    """
    if isinstance(error, FileNotFoundError) and error.filename:
        return printable(f'{os.fspath(error.filename)} does not exist')
    if isinstance(error, OSError) and error.strerror:
        name = error.filename
        parts = (str(name) if name is not None else '', error.strerror)
        return printable(': '.join(filter(None, parts)))
    lines = str(error).strip().splitlines()
    return printable(lines[0]) if lines else type(error).__name__


def add_debug_option(parser: argparse.ArgumentParser) -> None:
    """Let a command show tracebacks; :func:`reports_errors` acts on it."""
    parser.add_argument(
        '--debug',
        action='store_true',
        help='show the traceback of an error',
    )


def reports_errors(
    main: Callable[..., int | None],
) -> Callable[..., int]:
    """Decorate the ``main`` of a command: errors become one line and 1.

    The decorated function returns the exit status of ``main`` (None is 0);
    1 after an error, whose message is printed on standard error as
    ``error: MESSAGE``; 128 + N after signal N (130 after Ctrl-C). With
    ``--debug`` in the arguments the traceback is printed before the message.

    Args:
        main: Takes the command line after the command's name, or its parsed
            arguments, or nothing.
    """

    @functools.wraps(main)
    def wrapped(*args: Any, **kwargs: Any) -> int:
        first = next((arg for arg in args if arg is not None), sys.argv[1:])
        debug = getattr(first, 'debug', '--debug' in first)
        try:
            status = main(*args, **kwargs) or 0
            if sys.stdout is not None:
                sys.stdout.flush()  # here, where a failure can be reported
            return status
        except KeyboardInterrupt as stop:
            if debug:
                traceback.print_exc()
            status = exit_status(stop)
            message = str(stop) or 'stopped by Ctrl-C'
            print(f'\n{message}', file=sys.stderr)
            return status
        except BrokenPipeError:
            _discard_output()  # its reader has ended
            return 1
        except Exception as error:
            if debug:
                traceback.print_exc()
            print(f'error: {describe(error)}', file=sys.stderr)
            try:
                sys.stdout.flush()
            except (OSError, ValueError, AttributeError):  # a full disk
                _discard_output()
            return 1

    return wrapped


def _discard_output() -> None:
    """Discard what standard output did not take.

    Python would print another error when it flushes it at exit.
    """
    with contextlib.suppress(OSError, ValueError, AttributeError):  # no file
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())


def describe(error: Exception) -> str:
    """Give the message of an error, with the type of an unexpected one."""
    # torch's, which this module does not import
    no_memory = type(error).__name__ == 'OutOfMemoryError'
    if isinstance(error, EXPECTED_ERRORS) or no_memory:
        return one_line(error)
    return (
        f'{type(error).__name__}: {one_line(error)} (not an expected error; '
        'run again with --debug for the traceback)'
    )
