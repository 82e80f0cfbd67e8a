# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""OpenMP settings, which have to be made before torch is imported."""

import os
from collections.abc import MutableMapping

# what a user sets to choose how idle threads wait
_USER_SETTINGS = ('GOMP_SPINCOUNT', 'OMP_WAIT_POLICY')
# loops of an idle thread before it sleeps: some 10 microseconds
SPIN_COUNT = 10_000


def limit_spinning(
    environment: MutableMapping[str, str] = os.environ,
) -> None:
    """Let idle OpenMP threads sleep soon instead of occupying a core.

    GNU's OpenMP, which torch uses on Linux, lets an idle thread spin for
    milliseconds. Next to other processes, the spinning threads take the cores
    that the working ones need; ``benchmarks/busy.py`` measures it. Nothing is
    changed where the user has set ``GOMP_SPINCOUNT`` or ``OMP_WAIT_POLICY``.

    Args:
        environment: The variables to change: those of this process, or of
            one that is started.
    """
    if not any(name in environment for name in _USER_SETTINGS):
        environment['GOMP_SPINCOUNT'] = str(SPIN_COUNT)
