# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Errors of the tools in one sentence, from one rank, also in the log file."""

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
from .ranks import OtherRankError

_WORKER_ERROR = re.compile(r'^(?:\w+\.)*\w*(?:Error|Exception): ', re.M)
_LOST_RANK = re.compile(
    r'gloo|nccl|connection (closed|reset)|broken pipe', re.I
)

# of torchrun and tools/launch.py, srun, mpirun
_RANK_VARIABLES = (
    ('RANK', 'WORLD_SIZE'),
    ('SLURM_PROCID', 'SLURM_NTASKS'),
    ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE'),
)


def reports_rank_errors(main: Callable[[], int | None]) -> Callable[[], int]:
    """Decorate the ``main`` of a tool that may run on several ranks.

    As :func:`~minigpt4.utils.errors.reports_errors`: returns the exit status,
    1 after an error and 128 + N after signal N. An error is printed by the
    rank where it occurred, with the rank's number where there are several,
    and added to the log file of the run.
    """

    @functools.wraps(main)
    def wrapped() -> int:
        debug = '--debug' in sys.argv
        logging.raiseExceptions = debug  # a full disk, in every log line
        try:
            with raise_on_signals():
                return main() or 0
        except KeyboardInterrupt as stop:
            status = exit_status(stop)
            if _rank()[0] == 0:
                _say(str(stop) or 'stopped by Ctrl-C', logging.WARNING)
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()
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
                _say(f'error{which}: {sentence_of(error)}', logging.ERROR)
            if torch.distributed.is_initialized():
                # the other ranks may wait for this one: end without them
                sys.stdout.flush()
                _end_children()
                os._exit(1)
            return 1
        finally:
            _end_children()

    return wrapped


def _rank() -> tuple[int, int]:
    """This rank and their number, also before the ranks have met."""
    if torch.distributed.is_initialized():
        return get_rank(), get_world_size()
    for rank, number in _RANK_VARIABLES:
        if rank in os.environ and number in os.environ:
            return int(os.environ[rank]), int(os.environ[number])
    return 0, 1


def sentence_of(error: Exception) -> str:
    """The sentence of the error that was raised first.

    mmengine raises the error of a constructor again with the class before
    its message, a data loader with the traceback of its worker in it.
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
        if 'free some space' in one_line(inner):  # of write_atomically
            return one_line(inner)
        if inner.filename is None:  # of torch: shared memory of the workers
            return (
                f'{one_line(inner)}: the disk, or /dev/shm, through which '
                'data workers send batches (docker run --shm-size=8g, or '
                'train_dataloader.num_workers=0); the checkpoints saved '
                'before are whole: free some space and resume'
            )
        return (
            f'{one_line(inner)}; the checkpoints saved before are whole: '
            'free some space and resume'
        )
    if isinstance(inner, KeyError) and inner.args:
        text = str(inner.args[0]).partition('. ')[0]
        if 'is not in the' in text:  # a registry of mmengine
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
    """The message of an error, or of the data worker that it comes from."""
    text = str(error)
    if 'Original Traceback' in text:
        *_, last = _WORKER_ERROR.finditer(text)
        return text[last.end() :].strip()
    return one_line(error)


def _say(message: str, level: int) -> None:
    """Print a line on standard error and add it to the log file."""
    sys.stdout.flush()
    print(message, file=sys.stderr, flush=True)
    record = logging.LogRecord('mmengine', level, '', 0, message, None, None)
    for handler in MMLogger.get_current_instance().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)


def _end_children() -> None:
    """End the data workers that still run, which do not see signals."""
    children = multiprocessing.active_children()
    if not children:
        return
    in_main = threading.current_thread() is threading.main_thread()
    if in_main:  # torch raises an error where a worker is killed
        reported = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for child in children:
        child.kill()
        child.join()
    if in_main:
        signal.signal(signal.SIGCHLD, reported)
