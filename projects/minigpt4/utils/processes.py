# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Whether a process of this host is running."""

import os


def is_running(pid: int) -> bool:
    """Return whether a process with this id exists on this host.

    Args:
        pid: The process id, above 0.
    """
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # a process of another user
        return True
    return True
