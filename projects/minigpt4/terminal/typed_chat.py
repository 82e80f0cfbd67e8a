# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A chat whose lines are typed at a terminal."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from rich.console import Console
from rich.text import Text

from ..utils.errors import one_line
from ..utils.signals import StopSignal
from .commands import HELP, Interpreter
from .keyboard import line_editing, read_line

_FAILURES = (ImportError, OSError, ValueError, RuntimeError)


def run_typed_chat(
    interpreter: Interpreter, console: Console, model_name: str
) -> None:
    """Read lines from the keyboard and execute them until the user quits.

    Args:
        interpreter: Executes the lines.
        console: The terminal.
        model_name: Name of the model, to display.

    Raises:
        StopSignal: A stop signal other than Ctrl-C arrived.
        KeyboardInterrupt: The user pressed Ctrl-C twice during an answer.
    """
    device = interpreter.session.model.decoder.llm.device
    interpreter.view.show_note(
        f'{model_name} on {device}. Drag an image in or type its path, with a '
        'question or before it; /help lists the commands.'
    )
    with line_editing(HELP):
        while True:
            try:
                line = read_line(len(interpreter.pending_images))
            except EOFError:
                console.print()
                return
            except StopSignal:
                raise
            except KeyboardInterrupt:
                console.print(Text('\n/quit or Ctrl-D leaves', 'dim'))
                continue
            if not line.strip():
                continue
            try:
                with _ctrl_c_cancels(interpreter):
                    if not interpreter.run_line(line):
                        return
            except _FAILURES as error:
                console.print(Text(one_line(error), 'red'))


@contextlib.contextmanager
def _ctrl_c_cancels(interpreter: Interpreter) -> Iterator[None]:
    """Let Ctrl-C cancel the answer, and a second Ctrl-C end the program.

    The first Ctrl-C never interrupts the engine within a step. While no
    answer is generated, it aborts the line that is executed.
    """
    pressed = False

    def cancel(signum: int, frame: FrameType | None) -> None:
        nonlocal pressed
        last = interpreter.session.last
        if pressed or last is None or last.finished:
            raise KeyboardInterrupt
        pressed = True
        interpreter.session.cancel()

    previous = signal.signal(signal.SIGINT, cancel)
    try:
        yield
    except KeyboardInterrupt as error:
        if pressed or isinstance(error, StopSignal):
            raise
        interpreter.view.show_note('stopped')
    finally:
        signal.signal(signal.SIGINT, previous)
