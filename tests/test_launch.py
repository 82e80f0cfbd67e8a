# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""tools/launch.py: one process for each rank, signals and exit status."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[1] / 'tools/launch.py'


@pytest.fixture
def launch(tmp_path):
    """Function of a number of ranks and code to the started launcher."""

    launched = []

    def start(processes, code, **variables):
        script = tmp_path / 'tool.py'
        script.write_text('import os, signal, sys, time\n' + code)
        started = subprocess.Popen(
            [sys.executable, LAUNCH, str(processes), script, 'x y'],
            env={**os.environ, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        launched.append(started)
        return started

    yield start
    for started in launched:
        started.kill()
        started.communicate()


WAITS = r"""
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
signal.signal(signal.SIGINT, lambda *_: stop.append(1))
print(f'pid {os.getpid()}\n', end='', flush=True)
while not stop:
    time.sleep(0.05)
time.sleep(0.3)
"""


def test_each_rank_gets_its_variables(launch):
    code = """
names = ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT')
line = ' '.join([*(os.environ[name] for name in names), sys.argv[1]])
print(f'{line}\\n', end='', flush=True)  # ranks share the pipe
"""
    started = launch(2, code, NNODES='3', NODE_RANK='1', PORT='1234')
    out, _ = started.communicate(timeout=300)
    assert started.returncode == 0
    assert sorted(out.splitlines()) == [
        '2 0 6 127.0.0.1 1234 x y',
        '3 1 6 127.0.0.1 1234 x y',
    ]


@pytest.mark.parametrize('group', [False, True])
@pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_all_ranks(launch, signum, group):
    started = launch(2, WAITS + f'sys.exit(128 + {int(signum)})')
    pids = [int(started.stdout.readline().split()[1]) for _ in range(2)]
    (os.killpg if group else os.kill)(started.pid, signum)
    out, _ = started.communicate(timeout=300)
    assert started.returncode == 128 + signum
    assert out == ''  # the ranks report
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_other_ranks_end_after_a_rank_is_killed(tmp_path):
    code = """
if os.environ['RANK'] == '1':
    os.kill(os.getpid(), signal.SIGKILL)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(600)
"""
    quick = LAUNCH.read_text().replace('FAILURE = 10.0', 'FAILURE = 0.3')
    assert quick != LAUNCH.read_text()
    (tmp_path / 'launch.py').write_text(quick)
    script = tmp_path / 'tool.py'
    script.write_text('import os, signal, time' + code)
    since = time.monotonic()
    done = subprocess.run(
        [sys.executable, tmp_path / 'launch.py', '2', script],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert time.monotonic() - since < 300
    assert done.returncode == 128 + signal.SIGKILL
    assert 'rank 1 of this machine was ended by SIGKILL' in done.stderr


@pytest.mark.skipif(sys.platform != 'linux', reason='needs Linux')
def test_ranks_end_when_the_launcher_is_killed(launch):
    started = launch(1, WAITS)
    pid = int(started.stdout.readline().split()[1])
    started.kill()
    started.wait()
    for _ in range(1200):
        try:
            stat = Path(f'/proc/{pid}/stat').read_text()
        except (FileNotFoundError, ProcessLookupError):
            return
        if 'Z' in stat.rsplit(')')[1][:3]:
            return
        time.sleep(0.05)
    pytest.fail('the rank still runs')
