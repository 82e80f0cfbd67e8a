# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The command ``minigpt4``: one table of verbs.

A verb is a module of this package with ``add_arguments(parser)`` and
``run(args)``, which returns an exit status (None is 0). At their top level
these modules import the standard library and this package only, so that
``--help`` needs neither torch nor the package ``minigpt4``; ``run`` imports
what it needs. ``doctor`` never imports the package.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from importlib import metadata
from types import ModuleType

from .openmp import limit_spinning
from .options import UsageError

# verb: what it does; its module has the same name with _ instead of -
VERBS = {
    'cache-features': 'encode the images of a training set once; train '
    'without vision weights',
    'caption': 'caption a folder of images into a table and a gallery',
    'chat': 'chat about images in the terminal',
    'compare': 'compare two results of eval: settings, scores, samples that '
    'differ',
    'convert': 'convert weights from and to LAVIS, MiniGPT-4, MMPretrain and '
    'Hugging Face',
    'curate': 'make descriptions for stage 2 from images: describe, repair, '
    'review, export',
    'data': 'import, check and browse data sets',
    'doctor': 'check versions, devices and weights; print how to repair them',
    'download': 'download and check the weights of a model; mirrors, resume, '
    'offline',
    'eval': 'measure a model: caption losses with the right and another '
    'image, objects that captions invent',
    'explain': 'show what an answer rests on: attention, and losses without '
    'each image token',
    'reproduce': 'train and test the variants of the paper in miniature; one '
    'report',
    'serve': "serve OpenAI's chat API over HTTP, and a web page with --web",
}
STANDALONE = ('doctor',)  # verbs that run without the package


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb.

    Args:
        argv: The command line after the program's name.

    Returns:
        The exit status: 0; 1 after an error; 128 + N after signal N (130
        after Ctrl-C).

    Raises:
        SystemExit: The command line is wrong (2), or asks for help (0).
    """
    limit_spinning()
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
    # File names may have bytes that are not UTF-8; answers may have
    # characters that the terminal cannot encode.
    for stream, errors in (
        (sys.stdin, 'surrogateescape'),
        (sys.stdout, 'backslashreplace'),
    ):
        if hasattr(stream, 'reconfigure'):
            stream.reconfigure(errors=errors)
    module = importlib.import_module(f'{__package__}.{verb.replace("-", "_")}')
    parser = _build_verb_parser(verb, module)
    args = parser.parse_args(argv[n_own:])
    try:
        if verb in STANDALONE:
            return module.run(args) or 0
        if not _import_package(verb, args.debug):
            return 1
        from minigpt4.utils.errors import reports_errors

        def run(args: argparse.Namespace) -> int | None:
            try:
                return module.run(args)
            except UsageError as error:
                parser.error(str(error))

        return reports_errors(run)(args)
    except KeyboardInterrupt:
        print('\nstopped by Ctrl-C', file=sys.stderr)
        return 130


def _build_parser() -> argparse.ArgumentParser:
    width = max(map(len, VERBS))
    table = '\n'.join(f'  {v:{width}}  {help_}' for v, help_ in VERBS.items())
    parser = argparse.ArgumentParser(
        prog='minigpt4',
        usage='minigpt4 [-h] [--version] VERB ...',
        description='MiniGPT-4 as a plugin of MMPretrain.',
        epilog=f'verbs:\n{table}\n\n'
        'minigpt4 VERB --help lists the options of a verb.',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--version', action='version', version=_version())
    parser.add_argument(
        'verb', nargs='?', choices=list(VERBS), help=argparse.SUPPRESS
    )
    return parser


def _build_verb_parser(
    verb: str, module: ModuleType
) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f'minigpt4 {verb}')
    module.add_arguments(parser)
    parser.add_argument(
        '--debug', action='store_true', help='show the traceback of an error'
    )
    return parser


def _version() -> str:
    try:
        return f'minigpt4 {metadata.version("minigpt4")}'
    except metadata.PackageNotFoundError:
        return 'minigpt4 (not installed: no version)'


def _import_package(verb: str, debug: bool) -> bool:
    """Import the package; print why where that fails."""
    try:
        importlib.import_module('minigpt4')
    except Exception as error:
        if debug:
            raise
        reason = (str(error).strip() or 'no reason given').splitlines()[0]
        print(
            f'error: {verb} cannot be imported ({type(error).__name__}: '
            f'{reason}); "minigpt4 doctor" shows what is wrong with this '
            'environment, --debug shows the traceback.',
            file=sys.stderr,
        )
        return False
    return True


if __name__ == '__main__':
    sys.exit(main())
