# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Whether a process of this host is running, and when a child ends."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # of linux/prctl.h


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


def end_with_parent() -> None:
    """Let this process get SIGTERM when its parent has died (Linux).

    For ``preexec_fn`` of a child that must not outlive a killed parent. The
    parent is the thread that started the child.
    """
    if sys.platform == 'linux':
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
