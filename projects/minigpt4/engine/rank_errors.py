# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Report an error of a tool as one sentence, once for all ranks."""

import errno
import functools
import logging
import multiprocessing
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable

import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.logging import MMLogger

from ..utils.errors import EXPECTED_ERRORS, describe, one_line, printable
from ..utils.signals import exit_status, raise_on_signals
from .ranks import OtherRankError, destroy_ranks

_WORKER_ERROR = re.compile(r'^(?:\w+\.)*\w*(?:Error|Exception): ', re.M)
_LOST_RANK = re.compile(
    r'gloo|nccl|connection (closed|reset)|broken pipe', re.I
)

# set by torchrun and tools/launch.py, by srun, and by mpirun
_RANK_VARIABLES = (
    ('RANK', 'WORLD_SIZE'),
    ('SLURM_PROCID', 'SLURM_NTASKS'),
    ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE'),
)


def reports_rank_errors(main: Callable[[], int | None]) -> Callable[[], int]:
    """Decorate the ``main`` of a tool that may run on several ranks.

    Like :func:`~minigpt4.utils.errors.reports_errors`, it returns the exit
    status: 1 after an error and 128 + N after signal N. The rank of an error
    prints it, with its number if there are several ranks, and adds it to the
    log file of the run.
    """

    @functools.wraps(main)
    def wrapped() -> int:
        debug = '--debug' in sys.argv
        logging.raiseExceptions = debug  # a full disk fails every log line
        try:
            with raise_on_signals():
                return main() or 0
        except KeyboardInterrupt as stop:
            status = exit_status(stop)
            if _rank()[0] == 0:
                _report(str(stop) or 'stopped by Ctrl-C', logging.WARNING)
            if torch.distributed.is_initialized():
                destroy_ranks()
            return status
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except Exception as error:
            if debug:
                traceback.print_exc()
            if not isinstance(error, OtherRankError):
                rank, ranks = _rank()
                which = f' (rank {rank})' if ranks > 1 else ''
                _report(
                    f'error{which}: {error_sentence(error)}', logging.ERROR
                )
            if torch.distributed.is_initialized():
                # other ranks may wait for this one: do not wait for them
                sys.stdout.flush()
                _end_children()
                os._exit(1)
            return 1
        finally:
            _end_children()

    return wrapped


def _rank() -> tuple[int, int]:
    """Return rank and world size, also before the process group exists."""
    if torch.distributed.is_initialized():
        return get_rank(), get_world_size()
    for rank, number in _RANK_VARIABLES:
        if rank in os.environ and number in os.environ:
            return int(os.environ[rank]), int(os.environ[number])
    return 0, 1


def error_sentence(error: Exception) -> str:
    """Format the error that was raised first as one sentence.

    mmengine raises the error of a constructor again with the class before
    the message, a data loader with the traceback of the worker.
    """
    inner: BaseException = error
    while type(inner.__context__) is type(inner) and str(inner).endswith(
        str(inner.__context__)
    ):
        inner = inner.__context__
    if isinstance(inner, OSError) and inner.errno in (
        errno.ENOSPC,
        errno.EDQUOT,
    ):
        if 'free some space' in one_line(inner):  # from write_atomically
            return one_line(inner)
        if inner.filename is None:  # from torch: /dev/shm of the workers
            return (
                f'{one_line(inner)}: the disk, or /dev/shm, through which '
                'data workers send batches (docker run --shm-size=8g, or '
                'train_dataloader.num_workers=0); the checkpoints saved '
                'before are complete: free some space and resume'
            )
        return (
            f'{one_line(inner)}; the checkpoints saved before are complete: '
            'free some space and resume'
        )
    if isinstance(inner, KeyError) and inner.args:
        text = str(inner.args[0]).partition('. ')[0]
        if 'is not in the' in text:  # from a registry of mmengine
            return printable(f'{text}; check the type in the config.')
    if isinstance(inner, RuntimeError) and _LOST_RANK.search(str(inner)):
        if get_world_size() > 1:
            return (
                'the connection to another rank was lost; its own error is '
                'the cause.'
            )
    if isinstance(inner, EXPECTED_ERRORS):
        return printable(innermost_message(inner))
    if 'Original Traceback' in str(inner):
        return (
            f'{type(inner).__name__} in a data worker: '
            f'{printable(innermost_message(inner))} (run again with --debug '
            'for the traceback)'
        )
    return describe(inner)  # type: ignore[arg-type]


def innermost_message(error: BaseException) -> str:
    """Return the message of an error, or of the data worker's error."""
    text = str(error)
    if 'Original Traceback' in text:
        *_, last = _WORKER_ERROR.finditer(text)
        return text[last.end() :].strip()
    return one_line(error)


def _report(message: str, level: int) -> None:
    """Print a line on standard error and add it to the log file."""
    sys.stdout.flush()
    print(message, file=sys.stderr, flush=True)
    record = logging.LogRecord('mmengine', level, '', 0, message, None, None)
    for handler in MMLogger.get_current_instance().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)


def _end_children() -> None:
    """End running data workers, which ignore signals."""
    children = multiprocessing.active_children()
    if not children:
        return
    in_main = threading.current_thread() is threading.main_thread()
    if in_main:  # torch would raise an error for a killed worker
        handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for child in children:
        child.kill()
        child.join()
    if in_main:
        signal.signal(signal.SIGCHLD, handler)
