# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 reproduce``: a shortened reproduction, killed and continued."""

import json
import signal
import subprocess
import sys
import time

import pytest
import torch

pytestmark = pytest.mark.slow


def command(out, *options):
    return [
        *(sys.executable, '-m', 'minigpt4_cli.main', 'reproduce', '--nano'),
        *('-o', str(out), '--seeds', '1', '--share', '0.002', '--jobs', '2'),
        *options,
    ]


def test_a_killed_reproduction_continues(tmp_path):
    out = tmp_path / 'out'
    # with this share both have the same settings
    twice = ('stage2', 'stage2_100_iterations')
    words = command(out, *(w for name in twice for w in ('--only', name)))
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    lines = iter(process.stdout.readline, '')
    assert next(line for line in lines if '[1/11] data in' in line)
    process.send_signal(signal.SIGKILL)
    process.wait()
    steps = next(out.glob('work-*')) / 'steps'
    first = {path.name: path.stat().st_mtime_ns for path in steps.iterdir()}
    assert 'data.json' in first
    end = time.time() + 30  # children end with their parent
    while time.time() < end:
        found = subprocess.run(words, capture_output=True, text=True)
        if 'another' not in found.stderr:
            break
        time.sleep(1)
    assert found.returncode == 0, found.stdout + found.stderr
    assert 'steps have ended before' in found.stdout
    assert f'report: {out / "report.html"}' in found.stdout
    now = {path.name: path.stat().st_mtime_ns for path in steps.iterdir()}
    assert len(now) == 11
    assert {name: now[name] for name in first} == first
    scores = json.loads((out / 'scores.json').read_text())
    assert [row['training'] for row in scores['scores']] == [
        'stage1',
        *twice,
    ]
    assert not scores['problems']
    assert '--only stage2 --only' in scores['facts']['command']
    weights, again = (
        torch.load(
            next(out.glob(f'work-*/runs/{name}-*/iter_4.pth')),
            weights_only=False,
        )['state_dict']
        for name in twice
    )
    assert weights.keys() == again.keys()
    for name, tensor in weights.items():
        assert torch.equal(tensor, again[name])
    page = (out / 'report.html').read_text()
    assert 'Claims of the paper' in page and 'image/svg+xml' in page
    assert '| stage2 | 1 |' in (out / 'tables.md').read_text()


@pytest.mark.parametrize('share', ['0', '1.5', 'nan', 'half'])
def test_a_wrong_share_is_refused(tmp_path, share):
    found = subprocess.run(
        command(tmp_path, '--share', share), capture_output=True, text=True
    )
    assert found.returncode == 2
    assert 'expected a number above 0 and at most 1' in found.stderr


def test_a_wrong_name_is_refused(tmp_path):
    found = subprocess.run(
        command(tmp_path, '--only', 'stage3'), capture_output=True, text=True
    )
    assert found.returncode == 2
    assert "there is no training 'stage3'; expected one of" in found.stderr
