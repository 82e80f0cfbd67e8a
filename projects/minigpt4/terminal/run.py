# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The chat in the terminal: typed, or from a script."""

import argparse
import contextlib
import glob
import importlib.util
import json
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.text import Text

from ..chat.session import ChatSession
from ..loading import load_model, quiet_logs
from ..utils.errors import one_line
from ..utils.signals import STOP_SIGNALS, StopSignal, raise_on_signals
from .answer_view import show_markdown, show_plain, terminal_text
from .commands import HELP, Conversation, check_save, save
from .typed_images import source_of

_FAILURES = (ImportError, OSError, ValueError, RuntimeError)


def chat(args: argparse.Namespace) -> int:
    """Chat in the terminal, or answer the questions of a script.

    Args:
        args: The options of :mod:`minigpt4_cli.chat`.

    Returns:
        0; 1 after an error, which is printed on standard error; 128 + N after
        signal N (130 after Ctrl-C in a script, or twice while an answer is
        written).
    """
    scripted = _is_scripted(args)
    # typed chats have a meaning of their own for Ctrl-C
    signals = STOP_SIGNALS if scripted else (signal.SIGTERM, signal.SIGHUP)
    with raise_on_signals(signals=signals), quiet_logs():
        return _run(args, scripted)


def _is_scripted(args: argparse.Namespace) -> bool:
    return bool(args.ask) or not all(
        map(_is_terminal, (sys.stdin, sys.stdout))
    )


def _run(args: argparse.Namespace, scripted: bool) -> int:
    if args.save is not None:
        check_save(args.save)
    console = Console(stderr=scripted, highlight=False)
    if not scripted:
        console.print(Text(f'loading {args.model} ...', 'dim'))
    model = load_model(args.model, args.pretrained, args.device)
    chosen = dict(max_context=args.max_context, **args.settings)
    if args.system is not None:
        chosen['system'] = args.system
    if args.load is not None:
        session = ChatSession.load(args.load, model, **chosen)
    else:
        session = ChatSession(model, **chosen)
    view = ScriptView(args.json) if scripted else TypedView(console, args)
    talk = Conversation(session, view)
    try:
        _converse(talk, args, console, scripted)
    except BaseException:
        # what was answered is kept, whatever ends the chat
        if args.save is not None and talk.session.turns:
            save(talk.session, args.save)
        raise
    if args.save is not None:
        save(talk.session, args.save)
    return 0


def _converse(
    talk: Conversation,
    args: argparse.Namespace,
    console: Console,
    scripted: bool,
) -> None:
    """Ask what the command line, a pipe or the keyboard asks."""
    talk.attach([source_of(source) for source in args.image])
    if args.ask:
        for question in args.ask:
            talk.ask(question)
    elif scripted:
        for line in sys.stdin or ():
            if line.strip() and not talk.take(line):
                break
    else:
        _type(talk, console, args.model)


class ScriptView:
    """Answers alone on standard output, remarks on standard error.

    Args:
        as_json: Whether each answer is a line of JSON.
    """

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    def answer(self, pieces: Iterable[str]) -> None:
        """Write an answer as it comes."""
        shown = terminal_text if _is_terminal(sys.stdout) else str
        for piece in pieces:
            if not self.as_json:
                print(shown(piece), end='', flush=True)
        if not self.as_json:
            print(flush=True)

    def note(self, text: str) -> None:
        """Write a remark, unless it is part of the JSON."""
        if not self.as_json:
            print(terminal_text(text), file=sys.stderr)

    def done(self, question: str, session: ChatSession) -> None:
        """Write what there is to know of an answer."""
        last = session.last
        if self.as_json and last is not None:
            fields = dict(
                question=question,
                answer=last.text,
                finish_reason=last.finish_reason,
                tokens=len(last.token_ids),
                prompt_tokens=last.prompt_tokens,
                reused_tokens=last.reused_tokens,
                notice=session.notice,
            )
            print(json.dumps(fields, ensure_ascii=False), flush=True)


class TypedView:
    """Answers and remarks for somebody who looks on.

    Args:
        console: Where to.
        args: The command line; ``plain`` leaves Markdown as it is.
    """

    def __init__(self, console: Console, args: argparse.Namespace) -> None:
        self.console = console
        self.plain = args.plain or console.is_dumb_terminal

    def answer(self, pieces: Iterable[str]) -> None:
        """Show an answer while it comes."""
        (show_plain if self.plain else show_markdown)(pieces, self.console)

    def note(self, text: str) -> None:
        """Show a remark, dimmed."""
        self.console.print(Text(terminal_text(text), 'dim'))

    def done(self, question: str, session: ChatSession) -> None:
        """Leave a line between two turns."""
        self.console.print()


def _is_terminal(stream: 'TextIO | None') -> bool:
    return stream is not None and stream.isatty()


def _type(talk: Conversation, console: Console, name: str) -> None:
    """Read lines from the keyboard until the user leaves."""
    device = talk.session.model.decoder.llm.device
    talk.view.note(
        f'{name} on {device}. Drag a picture in or type its path, with a '
        'question or before it; /help lists the commands.'
    )
    with _history():
        while True:
            try:
                line = _read(len(talk.pending))
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
                with _interruptible(talk):
                    if not talk.take(line):
                        return
            except _FAILURES as error:
                console.print(Text(one_line(error), 'red'))


def _read(pending: int) -> str:
    """A line, or several that are joined by a backslash at their ends."""
    pictures = f' [{pending} picture{"s" * (pending > 1)}]' * bool(pending)
    line = input(f'you{pictures}> ')
    while line.endswith('\\'):
        line = line[:-1] + '\n' + input('...> ')
    return line


@contextlib.contextmanager
def _interruptible(talk: Conversation) -> Iterator[None]:
    """Let Ctrl-C end an answer, and a second Ctrl-C the program.

    The first one never leaves the engine in the middle of a step. Where no
    answer is being written, what is done instead is given up.
    """
    pressed = False

    def stop(signum, frame) -> None:
        nonlocal pressed
        last = talk.session.last
        if pressed or last is None or last.finished:
            raise KeyboardInterrupt
        pressed = True
        talk.session.cancel()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    except KeyboardInterrupt as error:
        if pressed or isinstance(error, StopSignal):
            raise
        talk.view.note('stopped')
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _history() -> Iterator[None]:
    """Arrow keys, lines of earlier sessions, and Tab for names."""
    if importlib.util.find_spec('readline') is None:
        yield  # a Python without it still reads lines
        return
    import readline

    state = os.environ.get('XDG_STATE_HOME') or '~/.local/state'
    path = Path(state).expanduser() / 'minigpt4' / 'chat_history'
    readline.set_completer_delims(' \t\n')
    readline.set_completer(_complete)
    readline.parse_and_bind('tab: complete')
    readline.set_history_length(1000)
    # a history that cannot be kept is no reason not to talk
    with contextlib.suppress(OSError):
        readline.read_history_file(path)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(path)


def _complete(text: str, state: int) -> str | None:
    """The ``state``-th way to go on with a word: commands, then files."""
    found = [f'{name} ' for name in HELP if text and name.startswith(text)]
    for path in sorted(glob.glob(glob.escape(os.path.expanduser(text)) + '*')):
        name = path.replace(' ', '\\ ')
        found.append(f'{name}/' if os.path.isdir(path) else f'{name} ')
    return found[state] if state < len(found) else None
