# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Run Python commands in processes that have imported the packages already.

Importing torch, transformers, mmengine and mmpretrain takes about 7 s of CPU
time, which a reproduction would spend for each of its steps.
"""

import multiprocessing
import os
import runpy
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from ..utils.locks import lock_file
from ..utils.processes import end_with_parent

# packages that steps import
PRELOADED = [
    'minigpt4.engine.config',  # first, so that compat.py applies to the others
    'minigpt4.generation.api',
    'mmpretrain.apis',
    'transformers.models.llama.modeling_llama',
    'matplotlib.backends.backend_agg',
    'matplotlib.figure',
]
# bytes of the temporary folder; below it, multiprocessing makes sockets whose
# paths have 32 more, and a path of macOS at most 103
_LONGEST_FOLDER = 70


def use_short_temporary_folder() -> None:
    """Use ``/tmp`` if sockets have too long paths in the temporary folder.

    The processes of the steps make sockets, and so do their data workers.
    """
    if len(os.fsencode(tempfile.gettempdir())) > _LONGEST_FOLDER:
        os.environ['TMPDIR'] = '/tmp'
        tempfile.tempdir = None  # it is read again


def start_process(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    log: Path,
) -> BaseProcess:
    """Start a Python command in a session of its own.

    The process gets SIGTERM when this process has died (Linux).

    Args:
        command: The interpreter, and a script, ``-m MODULE`` or ``-c CODE``
            with arguments. It has interpreter and ``sys.path`` of this
            process.
        folder: Its working folder.
        environment: Its environment variables.
        log: Its output is added to this file, which it locks.
    """
    process = _context().Process(  # type: ignore[attr-defined]
        target=_run,
        args=(list(command[1:]), str(folder), dict(environment), str(log)),
    )
    process.start()
    return process


def send_signal(process: BaseProcess, number: int) -> None:
    """Send a signal to a process and its children."""
    assert process.pid is not None
    for send in (os.killpg, os.kill):  # it has no group in its first moments
        try:
            send(process.pid, number)
            return
        except ProcessLookupError:
            pass


def _context() -> BaseContext:
    """How processes are started.

    CUDA does not work in a process that was forked after it was initialized,
    and imports of some packages initialize it. Other systems than Linux do
    not fork safely after torch was imported.
    """
    if sys.platform != 'linux' or torch.cuda.is_available():
        return multiprocessing.get_context('spawn')
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(PRELOADED)
    return context


def _run(
    words: list[str], folder: str, environment: dict[str, str], log: str
) -> None:
    """Run a command in this new process."""
    os.setsid()
    end_with_parent()
    _redirect(log)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    if threads := environment.get('OMP_NUM_THREADS'):
        torch.set_num_threads(int(threads))  # torch reads it when imported
    if words[0] == '-c':
        sys.argv = ['-c', *words[2:]]
        sys.path.insert(0, '')
        exec(words[1], {'__name__': '__main__'})
    elif words[0] == '-m':
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name='__main__', alter_sys=True)
    else:
        sys.argv = words
        sys.path.insert(0, str(Path(words[0]).parent))
        runpy.run_path(words[0], run_name='__main__')


def _redirect(log: str) -> None:
    """Read nothing, and add standard output and error to a locked file."""
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    with open(log, 'ab') as file:
        lock_file(file)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
