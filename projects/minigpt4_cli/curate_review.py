# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The actions of ``minigpt4 curate`` for the review by people."""

import argparse
from collections.abc import Callable

from .curate_options import (
    add_common_options,
    add_settings_options,
    joined_settings,
)
from .options import UsageError, path, positive_int

REVIEW_ACTIONS = {
    'review': 'serve a local page on which people accept, edit or reject',
    'export-review': 'write a page or a table for a review without network',
    'import-review': 'store the decisions of such a page or table',
    'label-studio': 'exchange texts and decisions with Label Studio',
}


def _add_review_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        '--host',
        default='127.0.0.1',
        help='0.0.0.0 accepts other machines (default: %(default)s)',
    )
    add(
        '--port',
        type=_port,
        default=8010,
        help='0: any free port (default: %(default)s)',
    )
    add(
        '--allowed-host',
        action='append',
        default=[],
        metavar='NAME',
        help='another name of this machine; may be given several times',
    )
    add(
        '--allowed-origin',
        action='append',
        default=[],
        metavar='URL',
        help='another site whose pages may send requests',
    )
    add_settings_options(parser)


def _add_export_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'file', type=path, metavar='FILE.html|FILE.csv', help='what to write'
    )
    _add_choice(parser)
    _add_overwrite(parser)
    parser.add_argument(
        '--image-side',
        type=positive_int,
        default=800,
        metavar='PIXELS',
        help='of the images in the page (default: %(default)s)',
    )
    add_settings_options(parser)


def _add_choice(parser: argparse.ArgumentParser) -> None:
    """Add which texts are written."""
    parser.add_argument(
        '--reviewer',
        default='',
        metavar='NAME',
        help='who will decide; only texts that this person has not decided '
        '(default: texts that no person has decided)',
    )
    parser.add_argument('--all', action='store_true', help='decided texts too')
    parser.add_argument(
        '--limit',
        type=positive_int,
        metavar='N',
        help='the N texts of the highest risk (default: all)',
    )


def _add_overwrite(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--overwrite',
        action='store_true',
        help='replace a file that exists, with the decisions in it',
    )


def _add_import_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'file',
        type=path,
        metavar='FILE',
        help='the file that the page downloaded, or the filled table',
    )
    _add_store(parser)
    add_settings_options(parser)


def _add_store(parser: argparse.ArgumentParser) -> None:
    """Add how decisions are stored."""
    parser.add_argument(
        '--reviewer',
        metavar='NAME',
        help='who decided, where the file does not name a person',
    )
    parser.add_argument(
        '--replace',
        action='store_true',
        help='replace other decisions of the same person on the same text',
    )


def _add_label_studio_options(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(
        dest='exchange', required=True, metavar='export|import'
    )
    write = actions.add_parser(
        'export', help='write tasks and the labelling configuration'
    )
    write.add_argument('file', type=path, metavar='FILE.json')
    _add_choice(write)
    _add_overwrite(write)
    write.add_argument(
        '--image-prefix',
        metavar='URL',
        help="before the path of each image, e.g. '/data/local-files/?d='; "
        'default: reduced images in the file',
    )
    read = actions.add_parser('import', help='store exported decisions')
    read.add_argument('file', type=path, metavar='FILE.json')
    _add_store(read)
    add_settings_options(parser)
    for action in (write, read):
        add_settings_options(action, nested=True)
        add_common_options(action, nested=True)


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(
            f'{text} is not a port; expected 0 to 65535'
        )
    return int(text)


def _run_review(args: argparse.Namespace) -> int:
    from minigpt4.curation.review_commands import opened_queue

    try:
        from minigpt4.serving.review.serve import serve_review
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'the review page needs more packages ({error}); install them '
            "with: pip install 'minigpt4[serve]'"
        ) from error
    with opened_queue(args) as queue:
        serve_review(
            queue,
            args.host,
            args.port,
            args.allowed_host,
            args.allowed_origin,
        )
    return 0


def _run_export(args: argparse.Namespace) -> int:
    from minigpt4.curation.review_commands import export_review

    if args.file.suffix.lower() not in ('.html', '.csv'):
        raise UsageError(
            f'{args.file} is neither .html nor .csv; give one of them'
        )
    return export_review(args)


def _run_import(args: argparse.Namespace) -> int:
    from minigpt4.curation.review_commands import import_review

    return import_review(args)


def _run_label_studio(args: argparse.Namespace) -> int:
    from minigpt4.curation.review_commands import label_studio

    if args.exchange == 'export' and args.file.suffix.lower() != '.json':
        raise UsageError(f'{args.file} is not .json; give another name')
    return label_studio(joined_settings(args))


REVIEW_OPTIONS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    'review': _add_review_options,
    'export-review': _add_export_options,
    'import-review': _add_import_options,
    'label-studio': _add_label_studio_options,
}
REVIEW_RUN: dict[str, Callable[[argparse.Namespace], int]] = {
    'review': _run_review,
    'export-review': _run_export,
    'import-review': _run_import,
    'label-studio': _run_label_studio,
}
