# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 chat``: chat about images, typed or from a script."""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from minigpt4_cli.options import (
    add_model_options,
    add_settings,
    check_model,
    load_model,
    quiet_logs,
    settings_of,
)

from ..chat.session import ChatSession
from ..utils.errors import add_debug_option, one_line, reports_errors
from ..utils.signals import STOP_SIGNALS, raise_on_signals
from .commands import Interpreter, check_save, save
from .typed_chat import run_typed_chat
from .typed_images import parse_word
from .views import ScriptView, TerminalView, is_terminal


@reports_errors
def main(argv: Sequence[str]) -> int:
    """Run the command.

    Args:
        argv: What follows ``minigpt4 chat``.

    Returns:
        0; 1 after an error, which is printed on standard error; 128 + N after
        signal N (130 after Ctrl-C in a script, or twice while an answer is
        written).
    """
    args = _parse(argv)
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


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog='minigpt4 chat',
        description='Talk about pictures. With --ask, or when standard input '
        'is no terminal (a question or command per line), only the answers '
        'are printed.',
    )
    add_model_options(parser)
    parser.add_argument(
        '--image',
        action='append',
        default=[],
        metavar='PATH',
        help='a picture, by path or web address, for the first question; may '
        'be given several times',
    )
    parser.add_argument(
        '--ask',
        action='append',
        metavar='TEXT',
        help='a question; several are turns of one conversation',
    )
    parser.add_argument(
        '--json',
        action='store_true',
        help='print each answer as a line of JSON, with its counts',
    )
    parser.add_argument(
        '--plain',
        action='store_true',
        help='show answers letter by letter, not as Markdown',
    )
    parser.add_argument(
        '--system',
        metavar='TEXT',
        help="the line that opens the chat, instead of the model's own; '' "
        'for none',
    )
    parser.add_argument(
        '--max-context',
        type=int,
        metavar='N',
        help='tokens of prompt and answer together (default: what the '
        'language model takes)',
    )
    for flag, help_ in (
        ('--load', 'go on with a conversation that was saved'),
        ('--save', 'write the conversation at the end'),
    ):
        parser.add_argument(
            flag,
            type=lambda path: Path(path).expanduser(),
            metavar='FILE',
            help=help_,
        )
    add_settings(parser)
    add_debug_option(parser)
    args = parser.parse_args(argv)
    if args.max_context is not None and args.max_context < 1:
        parser.error(f'--max-context is {args.max_context}; expected above 0')
    try:
        args.settings = settings_of(args)
        check_model(args.model, args.pretrained)
    except (OSError, ValueError) as error:
        parser.error(one_line(error))
    return args
