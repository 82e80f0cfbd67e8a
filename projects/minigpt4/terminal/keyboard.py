# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Read lines from the keyboard: history, completion, signals."""

import contextlib
import glob
import importlib.util
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

_RESEND_SECONDS = 0.1  # after which an unhandled signal is sent again


def read_line(num_images: int) -> str:
    """Read a line; a backslash at its end continues it in the next line.

    Args:
        num_images: Pending images, which the prompt shows.

    Raises:
        EOFError: The user pressed Ctrl-D.
        KeyboardInterrupt: The user pressed Ctrl-C, or a stop signal arrived.
    """
    pending = ''
    if num_images:
        pending = f' [{num_images} image{"s" * (num_images > 1)}]'
    with resend_signals():
        line = input(f'you{pending}> ')
        while line.endswith('\\'):
            line = line[:-1] + '\n' + input('...> ')
    return line


@contextlib.contextmanager
def resend_signals() -> Iterator[None]:
    """Handle signals without delay while ``input`` waits for a key.

    ``input`` handles a signal that interrupts its wait. A signal that
    arrives a moment earlier, while readline processes a key, would be
    handled only after the next key. Inside this context a thread sends a
    signal again until its handler has ended the wait.

    Outside the main thread, which alone handles signals, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting = True
    main_thread = threading.get_ident()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def resend() -> None:
        # Python writes the number of each signal that arrives
        while number := os.read(reader, 1):
            time.sleep(_RESEND_SECONDS)
            if waiting:
                signal.pthread_kill(main_thread, number[0])

    thread = threading.Thread(target=resend, daemon=True)
    thread.start()
    previous = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield
    finally:
        waiting = False
        signal.set_wakeup_fd(previous)
        os.close(writer)
        thread.join()
        os.close(reader)


@contextlib.contextmanager
def line_editing(commands: Iterable[str]) -> Iterator[None]:
    """Enable arrow keys, the history of earlier chats, and Tab completion.

    Without the module ``readline`` lines are read without these.

    Args:
        commands: Names of commands, which Tab completes.
    """
    if importlib.util.find_spec('readline') is None:
        yield
        return
    import readline

    names = sorted(commands)

    def complete(text: str, index: int) -> str | None:
        completions = _completions(text, names)
        return completions[index] if index < len(completions) else None

    state = os.environ.get('XDG_STATE_HOME') or '~/.local/state'
    path = Path(state).expanduser() / 'minigpt4' / 'chat_history'
    readline.set_completer_delims(' \t\n')
    readline.set_completer(complete)
    readline.parse_and_bind('tab: complete')
    readline.set_history_length(1000)
    # the chat works without a history file
    with contextlib.suppress(OSError):
        readline.read_history_file(path)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(path)


def _completions(text: str, commands: Iterable[str]) -> list[str]:
    """The completions of a word: commands, then paths."""
    found = [f'{name} ' for name in commands if text and name.startswith(text)]
    for path in sorted(glob.glob(glob.escape(os.path.expanduser(text)) + '*')):
        name = path.replace(' ', '\\ ')
        found.append(f'{name}/' if os.path.isdir(path) else f'{name} ')
    return found
