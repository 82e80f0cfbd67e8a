# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Progress bars on standard error."""

import sys
from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

_T = TypeVar('_T')


def progress_bar(
    *, in_bytes: bool = False, with_status: bool = False, visible: bool = True
) -> Progress:
    """Make a progress bar; tasks are added by the caller.

    It is drawn on standard error, and only where that is a terminal.

    Args:
        in_bytes: Whether progress is counted in bytes, with the speed;
            otherwise in items.
        with_status: Whether each task shows its field ``status``, which
            ``add_task`` must then be given.
        visible: Whether to draw it at all, such as on the main rank only.
    """
    columns: list[ProgressColumn] = [
        TextColumn('{task.description}'),
        BarColumn(),
    ]
    if in_bytes:
        columns += [DownloadColumn(), TransferSpeedColumn()]
    else:
        columns.append(MofNCompleteColumn())
    if with_status:
        columns.append(TextColumn('{task.fields[status]}'))
    columns.append(TimeRemainingColumn())
    is_terminal = sys.stderr is not None and sys.stderr.isatty()
    is_drawn = visible and is_terminal
    return Progress(
        *columns,
        # rich 13 ends a disabled bar with an empty line
        console=Console(stderr=True, quiet=not is_drawn),
        disable=not is_drawn,
    )


def track_progress(
    items: Sequence[_T], description: str, visible: bool = True
) -> Iterator[_T]:
    """Iterate over items with a progress bar.

    Args:
        items: What to iterate over.
        description: Text in front of the bar.
        visible: As for :func:`progress_bar`.
    """
    with progress_bar(visible=visible) as bar:
        yield from bar.track(items, description=description)
