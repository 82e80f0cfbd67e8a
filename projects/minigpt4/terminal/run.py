# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Chat about images in a terminal, typed or from a script."""

import argparse
import signal
import sys

from rich.console import Console
from rich.text import Text

from ..chat.session import ChatSession
from ..loading import load_model, quiet_logs
from ..utils.signals import STOP_SIGNALS, raise_on_signals
from .commands import Interpreter, check_save, save
from .typed_chat import run_typed_chat
from .typed_images import parse_word
from .views import ScriptView, TerminalView, is_terminal


def chat(args: argparse.Namespace) -> int:
    """Chat in the terminal, or answer the questions of a script.

    Args:
        args: The options of :mod:`minigpt4_cli.chat`.

    Returns:
        The exit status, 0.

    Raises:
        ValueError, OSError: A question of a script cannot be answered, or
            the conversation cannot be loaded or saved.
        KeyboardInterrupt: A stop signal arrived (Ctrl-C in a typed chat:
            twice during an answer); ``signum`` of a StopSignal is its number.
    """
    scripted = _is_scripted(args)
    # a typed chat handles Ctrl-C itself
    signals = STOP_SIGNALS if scripted else (signal.SIGTERM, signal.SIGHUP)
    with raise_on_signals(signals=signals), quiet_logs():
        return _run(args, scripted)


def _is_scripted(args: argparse.Namespace) -> bool:
    return bool(args.ask) or not all(map(is_terminal, (sys.stdin, sys.stdout)))


def _run(args: argparse.Namespace, scripted: bool) -> int:
    if args.save is not None:
        check_save(args.save)
    console = Console(stderr=scripted, highlight=False)
    if not scripted:
        console.print(Text(f'loading {args.model} ...', 'dim'))
    model = load_model(args.model, args.pretrained, args.device)
    options = dict(max_context=args.max_context, **args.settings)
    if args.system is not None:
        options['system'] = args.system
    if args.load is not None:
        session = ChatSession.load(args.load, model, **options)
    else:
        session = ChatSession(model, **options)
    interpreter = Interpreter(
        session,
        ScriptView(args.json)
        if scripted
        else TerminalView(console, args.plain),
    )
    try:
        _run_lines(interpreter, args, console, scripted)
    except BaseException:
        # answers so far are saved, whatever ends the chat
        if args.save is not None and interpreter.session.turns:
            save(interpreter.session, args.save)
        raise
    if args.save is not None:
        save(interpreter.session, args.save)
    return 0


def _run_lines(
    interpreter: Interpreter,
    args: argparse.Namespace,
    console: Console,
    scripted: bool,
) -> None:
    """Execute the lines of the command line, a pipe or the keyboard."""
    interpreter.add_images([parse_word(source) for source in args.image])
    if args.ask:
        for question in args.ask:
            interpreter.ask(question)
    elif scripted:
        for line in sys.stdin or ():
            if line.strip() and not interpreter.run_line(line):
                break
    else:
        run_typed_chat(interpreter, console, args.model)
