# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Start a tool once for each rank of this machine and wait for all of them.

python tools/launch.py NUM_PROCESSES TOOL [arguments]

Used instead of torchrun, which prints a traceback for every stop signal and
kills ranks that take more than 30 seconds to save. It reads the variables
NNODES, NODE_RANK, MASTER_ADDR and PORT (docs/training.md). Exit status: that
of the first rank that failed; 128 + N after signal N.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time

from minigpt4_cli.openmp import limit_spinning

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# the other ranks get this long to end after one has failed
SECONDS_AFTER_FAILURE = 10.0
_PR_SET_PDEATHSIG = 1


def rank_environments(processes: int) -> list[dict[str, str]]:
    """Build the environment of each local rank for ``torch.distributed``."""
    nodes = int(os.environ.get('NNODES') or 1)
    node = int(os.environ.get('NODE_RANK') or 0)
    common = dict(
        os.environ,
        WORLD_SIZE=str(nodes * processes),
        LOCAL_WORLD_SIZE=str(processes),
        MASTER_ADDR=os.environ.get('MASTER_ADDR') or '127.0.0.1',
        MASTER_PORT=os.environ.get('PORT') or '29500',
    )
    if processes > 1:  # like torchrun: the ranks share the cores
        common.setdefault('OMP_NUM_THREADS', '1')
    limit_spinning(common)
    return [
        dict(common, RANK=str(node * processes + local), LOCAL_RANK=str(local))
        for local in range(processes)
    ]


def end_with_parent() -> None:
    """Let the kernel kill this rank when the launcher dies (Linux)."""
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def run(processes: int, command: list[str]) -> int:
    """Run a command once for each rank and return the exit status."""
    received: list[int] = []
    ranks: list[subprocess.Popen] = []

    def forward(signum: int, frame: object) -> None:
        received.append(signum)
        for rank in ranks:
            if rank.poll() is None:
                rank.send_signal(signum)

    for signum in STOP_SIGNALS:
        if signal.getsignal(signum) is not signal.SIG_IGN:  # nohup
            signal.signal(signum, forward)
    for environment in rank_environments(processes):
        ranks.append(
            subprocess.Popen(
                command, env=environment, preexec_fn=end_with_parent
            )
        )
        if received:  # a signal came while ranks were started
            ranks[-1].send_signal(received[0])
    failed = wait(ranks, received)
    if failed is None:
        return 0
    code = ranks[failed].returncode
    if code < 0 and not received:
        print(
            f'rank {failed} of this machine was ended by '
            f'{signal.Signals(-code).name}'
            + (' (out of memory?)' if code == -signal.SIGKILL else ''),
            file=sys.stderr,
        )
    return code if code >= 0 else 128 - code


def wait(ranks: list[subprocess.Popen], received: list[int]) -> int | None:
    """Wait for all ranks and return the number of the first that failed.

    After a failure the other ranks get some seconds, then SIGTERM, and at
    last SIGKILL. After a stop signal there is no limit, because they save.
    """
    failed: int | None = None
    since, terminated = 0.0, False
    while any(rank.poll() is None for rank in ranks):
        if failed is None:
            failed = next((i for i, r in enumerate(ranks) if r.poll()), None)
            since = time.monotonic()
        elif not received:
            waited = time.monotonic() - since
            for rank in ranks:
                if rank.poll() is not None:
                    continue
                if waited > 2 * SECONDS_AFTER_FAILURE:
                    rank.kill()
                elif waited > SECONDS_AFTER_FAILURE and not terminated:
                    rank.terminate()
            terminated = waited > SECONDS_AFTER_FAILURE
        time.sleep(0.1)
    if failed is None:
        failed = next((i for i, r in enumerate(ranks) if r.poll()), None)
    return failed


def main() -> int:
    """Run the command line."""
    arguments = sys.argv[1:]
    if len(arguments) < 2 or not arguments[0].isdecimal():
        print(
            'usage: python tools/launch.py NUM_PROCESSES TOOL [arguments]',
            file=sys.stderr,
        )
        return 2
    if int(arguments[0]) < 1:
        print('error: NUM_PROCESSES is 0; expected 1 or more', file=sys.stderr)
        return 2
    return run(int(arguments[0]), [sys.executable, *arguments[1:]])


if __name__ == '__main__':
    sys.exit(main())
