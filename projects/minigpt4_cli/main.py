# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The console script ``minigpt4``: one table of verbs.

A verb's module has ``main(argv)``, which returns an exit status (None is 0).
It is imported when its verb is called. This file and ``doctor.py`` import
nothing of the package, so both run where the package cannot be imported.
"""

import argparse
import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib import metadata

# verb: (module, what the verb does)
VERBS: dict[str, tuple[str, str]] = {
    'cache-features': (
        'minigpt4_cli.cache_features',
        'encode the images of a training once; train without vision weights',
    ),
    'caption': (
        'minigpt4.captioning.run',
        'caption a folder of pictures into a table and a gallery',
    ),
    'chat': (
        'minigpt4.terminal.run',
        'talk about pictures in the terminal',
    ),
    'convert': (
        'minigpt4_cli.convert',
        'weights of LAVIS, MiniGPT-4, MMPretrain, Hugging Face in and out',
    ),
    'doctor': (
        'minigpt4_cli.doctor',
        'check versions, devices and weights; print how to repair faults',
    ),
    'download': (
        'minigpt4_cli.download',
        'bring the weights of a model, checked; mirrors, resume, offline',
    ),
    'serve': (
        'minigpt4.serving.http.serve',
        'answer OpenAI clients over HTTP, and a web page with --web',
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Call a verb.

    Args:
        argv: The command line after the program's name.

    Returns:
        The exit status of the verb.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = _build_parser()
    # The verb's own parser reads what follows the verb.
    n_own = next(
        (i + 1 for i, word in enumerate(argv) if not word.startswith('-')),
        len(argv),
    )
    verb = parser.parse_args(argv[:n_own]).verb
    if verb is None:
        parser.print_help()
        return 2
    # names of files may have bytes that are not UTF-8, and answers characters
    # that the terminal has not
    for stream, errors in (
        (sys.stdin, 'surrogateescape'),
        (sys.stdout, 'backslashreplace'),
    ):
        if hasattr(stream, 'reconfigure'):
            stream.reconfigure(errors=errors)
    rest = argv[n_own:]
    try:
        run = _load(VERBS[verb][0])
    except KeyboardInterrupt:
        print('\nstopped by Ctrl-C', file=sys.stderr)
        return 130
    except Exception as error:
        if '--debug' in rest:
            raise
        reason = (str(error).strip() or 'no reason given').splitlines()[0]
        print(
            f'error: {verb} cannot be imported ({type(error).__name__}: '
            f'{reason}); "minigpt4 doctor" shows what is wrong with this '
            'environment, --debug shows the traceback.',
            file=sys.stderr,
        )
        return 1
    return run(rest) or 0


def _build_parser() -> argparse.ArgumentParser:
    width = max(map(len, VERBS))
    table = '\n'.join(
        f'  {verb:{width}}  {help_}' for verb, (_, help_) in VERBS.items()
    )
    parser = argparse.ArgumentParser(
        prog='minigpt4',
        usage='minigpt4 [-h] [--version] VERB ...',
        description='MiniGPT-4 as a plugin of MMPretrain.',
        epilog=f'verbs:\n{table}\n\nminigpt4 VERB --help tells more.',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--version', action='version', version=_version())
    parser.add_argument(
        'verb', nargs='?', choices=list(VERBS), help=argparse.SUPPRESS
    )
    return parser


def _version() -> str:
    try:
        return f'minigpt4 {metadata.version("minigpt4")}'
    except metadata.PackageNotFoundError:
        return 'minigpt4 (not installed: no version)'


def _load(module: str) -> Callable[[list[str]], int | None]:
    """The ``main`` of a verb's module."""
    return importlib.import_module(module).main


if __name__ == '__main__':
    sys.exit(main())
