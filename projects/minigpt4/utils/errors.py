# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Report errors to the user: in one line, or as a traceback on request."""

import argparse
import contextlib
import functools
import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from .signals import exit_status


class UserError(Exception):
    """Base of errors of other types whose message is for the user."""


# The message of these errors is a sentence for the user. Any other type is a
# bug, so the name of the type is printed too.
EXPECTED_ERRORS = (ImportError, OSError, ValueError, UserError)
DEBUG_VARIABLE = 'MINIGPT4_DEBUG'  # set: --debug for every command
_HARMLESS = '\u3000\u200d'  # ideographic space, joiner of emoji


def printable(text: str) -> str:
    r"""Escape the characters that a terminal or a log would interpret.

    Args:
        text: Any text, e.g. a file name or a field of a record.

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


def short_json(value: Any, max_characters: int = 60) -> str:
    """Format a value for an error message: JSON, printable and shortened.

    Args:
        value: The value; what JSON cannot represent is written as text.
        max_characters: Longest result before escaping.
    """
    text = json.dumps(value, ensure_ascii=False, default=str)
    if len(text) > max_characters:
        text = text[: max_characters - 3] + '...'
    return printable(text)


def one_line(error: BaseException) -> str:
    """Return the message of an error as one printable line.

    Args:
        error: The error. Of an operating-system error the file name is kept
            and the error number is omitted.
    """
    if isinstance(error, FileNotFoundError) and error.filename:
        return printable(f'{os.fspath(error.filename)} does not exist')
    if isinstance(error, OSError) and error.strerror:
        name = error.filename
        parts = (str(name) if name is not None else '', error.strerror)
        return printable(': '.join(filter(None, parts)))
    lines = str(error).strip().splitlines()
    return printable(lines[0]) if lines else type(error).__name__


def line_with_name(error: BaseException, name: str) -> str:
    """Return :func:`one_line` of an error, with the name of its file once.

    Args:
        error: The error.
        name: The name; it is put before a message that does not have it.
    """
    line, name = one_line(error), printable(name)
    return line if name in line else f'{name}: {line}'


def add_debug_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--debug``, which :func:`reports_errors` reads, to a parser."""
    parser.add_argument(
        '--debug',
        action='store_true',
        help='print the traceback of an error',
    )


def reports_errors(
    main: Callable[..., int | None],
) -> Callable[..., int]:
    """Decorate the ``main`` of a command: an error is printed in one line.

    The decorated function returns the exit status of ``main`` (None is 0);
    1 after an error, whose message is printed on standard error as
    ``error: MESSAGE``; 128 + N after signal N (130 after Ctrl-C). With
    ``--debug`` in the arguments, or the environment variable
    ``MINIGPT4_DEBUG``, the traceback is printed before the message.

    Args:
        main: Takes the command line after the command's name, or its parsed
            arguments, or nothing.
    """

    @functools.wraps(main)
    def wrapped(*args: Any, **kwargs: Any) -> int:
        first = next((arg for arg in args if arg is not None), sys.argv[1:])
        debug = getattr(first, 'debug', '--debug' in first)
        debug = debug or bool(os.environ.get(DEBUG_VARIABLE))
        try:
            status = main(*args, **kwargs) or 0
            if sys.stdout is not None:
                sys.stdout.flush()  # a failure can still be reported here
            return status
        except KeyboardInterrupt as stop:
            if debug:
                traceback.print_exc()
            status = exit_status(stop)
            message = str(stop) or 'stopped by Ctrl-C'
            print(f'\n{message}', file=sys.stderr)
            return status
        except BrokenPipeError:
            _discard_output()  # the reading program has ended
            return 1
        except Exception as error:
            if debug:
                traceback.print_exc()
            print(f'error: {describe(error)}', file=sys.stderr)
            try:
                sys.stdout.flush()
            except (OSError, ValueError, AttributeError):  # e.g. a full disk
                _discard_output()
            return 1

    return wrapped


def _discard_output() -> None:
    """Discard the buffered output that could not be written.

    Otherwise Python prints a second error when it flushes the buffer at exit.
    """
    with contextlib.suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())


def describe(error: Exception) -> str:
    """Return the message of an error, and the type of an unexpected one."""
    # by name: this module does not import torch
    out_of_memory = type(error).__name__ == 'OutOfMemoryError'
    if isinstance(error, EXPECTED_ERRORS) or out_of_memory:
        return one_line(error)
    return (
        f'{type(error).__name__}: {one_line(error)} (not an expected error; '
        'run again with --debug for the traceback)'
    )
