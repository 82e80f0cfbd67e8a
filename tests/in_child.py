# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Runs a test in a child process."""

import functools
import os
import sys
import traceback
from collections.abc import Callable


def in_child(test: Callable[..., None]) -> Callable[..., None]:
    """Decorate a test that changes its process for all later tests.

    After ``torch.compile`` no fork of a process can compute gradients
    ("autograd's threading in combination with fork", torch 2.11).
    """

    @functools.wraps(test)
    def run(*args, **kwargs) -> None:
        child = os.fork()
        if not child:
            status = 1
            try:
                test(*args, **kwargs)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0

    return run
