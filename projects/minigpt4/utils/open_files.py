# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The number of files that this process may have open."""

import contextlib
import resource
import sys

# the most that is needed, and what macOS always allows
_LIMITS = (65_536, 10_240)


def raise_open_files() -> int:
    """Raise the soft limit of open files as far as the hard one allows.

    Returns:
        The limit that holds now; ``sys.maxsize`` if there is none.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft == unlimited:
        return sys.maxsize
    for most in _LIMITS:
        limit = most if hard == unlimited else min(hard, most)
        if limit <= soft:
            return soft
        # macOS may allow less than its hard limit
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            return limit
    return soft
