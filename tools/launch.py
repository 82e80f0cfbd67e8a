# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Start a tool once for each rank of this machine and wait for all of them.

python tools/launch.py NUM_PROCESSES TOOL [arguments]

In place of torchrun, which reports every stop signal with a traceback and
ends ranks that take more than 30 seconds to save. Read from the environment:
NNODES, NODE_RANK, MASTER_ADDR and PORT, as the dist_*.sh scripts document.
Exit status: that of the first rank that failed; 128 + N after signal N.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# after a rank has failed, the others wait for it in vain
SECONDS_AFTER_FAILURE = 10.0
_PR_SET_PDEATHSIG = 1


def rank_environments(processes: int) -> list[dict[str, str]]:
    """The variables that ``torch.distributed`` reads, for each local rank."""
    nodes = int(os.environ.get('NNODES') or 1)
    node = int(os.environ.get('NODE_RANK') or 0)
    common = dict(
        os.environ,
        WORLD_SIZE=str(nodes * processes),
        LOCAL_WORLD_SIZE=str(processes),
        MASTER_ADDR=os.environ.get('MASTER_ADDR') or '127.0.0.1',
        MASTER_PORT=os.environ.get('PORT') or '29500',
    )
    if processes > 1:  # as torchrun: ranks share the cores
        common.setdefault('OMP_NUM_THREADS', '1')
    return [
        dict(common, RANK=str(node * processes + local), LOCAL_RANK=str(local))
        for local in range(processes)
    ]


def end_with_parent() -> None:
    """Let the kernel end this rank when the launcher is killed (Linux)."""
    if sys.platform == 'linux':
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def run(processes: int, command: list[str]) -> int:
    """Run a command once for each rank; returns the exit status."""
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
        if received:  # it came while ranks were started
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
    """Wait for all ranks; returns the number of the first that failed.

    Once one has failed the others get some seconds, are then asked to end,
    and at last are killed. After a stop signal there is no limit: they save.
    """
    failed: int | None = None
    since, asked = 0.0, False
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
                elif waited > SECONDS_AFTER_FAILURE and not asked:
                    rank.terminate()
            asked = waited > SECONDS_AFTER_FAILURE
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
