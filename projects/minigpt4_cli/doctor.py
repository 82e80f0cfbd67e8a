# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 doctor``: check the installation and print how to repair it.

Nothing that may be broken is imported at the top level of this module and of
those it uses: versions come from the metadata of the installed distributions,
the required ranges from the metadata of this one, and each import that fails
is reported.
"""

import argparse
import contextlib
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator

from .doctor_devices import check_devices
from .doctor_packages import check_versions
from .doctor_report import Report, print_report
from .doctor_weights import (
    check_llm,
    check_shipped_weights,
    describe_package_files,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    parser.description = (
        'Check what is installed and what does not work; print how to repair '
        'it.'
    )
    parser.add_argument(
        '--json', action='store_true', help='print the findings as JSON'
    )


def run(args: argparse.Namespace) -> int:
    """Run the verb.

    Returns:
        1 if something does not work or the report cannot be written, else 0.
    """
    report = examine()
    try:
        if args.json:
            print(json.dumps(report.as_dict(), indent=2))
        else:
            print_report(report)
        sys.stdout.flush()  # here, where a failure can be reported
    except OSError as error:
        # Python would flush the rest at exit and fail again
        with contextlib.suppress(OSError, ValueError):  # no file at all
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            reason = error.strerror or error
            print(
                f'error: the report could not be written: {reason}',
                file=sys.stderr,
            )
        return 1
    return 1 if report.faults else 0


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Suppress what libraries report when they are imported."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(level)


def examine() -> Report:
    """Run every check; print nothing and change nothing."""
    report = Report()
    with _without_warnings(), contextlib.redirect_stdout(sys.stderr):
        check_versions(report)
        check_devices(report)
        check_shipped_weights(report)
        describe_package_files(report)
        check_llm(report)
    return report
