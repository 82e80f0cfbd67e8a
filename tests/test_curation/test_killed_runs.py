# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Runs that are killed at any point continue to the same export."""

import subprocess
import sys
import time

import pytest
from tests.chat_endpoint import chat_endpoint

from minigpt4.curation.ledger import Ledger
from minigpt4_cli.main import main

SETTINGS = (
    'describe.device=cpu',
    'describe.generation={max_new_tokens: 12}',
    'repair.backend=openai',
    'repair.model=fixer',
    'repair.api_key_env=null',
    'repair.guard.language=ignore',
    'rules.skip=[language, fragment, unfinished, near_duplicate_image, '
    'repetition]',
    'rules.min_words=5',
)
# In one process: it loads the model once, and each run is a forked child that
# ends itself with SIGKILL before or after it stores a result.
PROGRAM = '''
import os, random, shutil, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from minigpt4.curation import describe, pipeline
from minigpt4.curation.export import export_curation
from minigpt4.curation.ledger import Ledger
from minigpt4.curation.pipeline import plan, run_steps
from minigpt4.curation.settings import *
from minigpt4.utils.signals import StopRequest

folder = Path(sys.argv[1])
pipeline._FLUSH_SECONDS = 0.0  # a point after each result
with Ledger(folder / 'base.sqlite') as ledger:
    settings = load_settings(ledger, None, sys.argv[2:])
describe.shared_model(settings.describe.model, None, 'cpu', None)

def run(path):
    with Ledger(path) as ledger, StopRequest() as stop:
        planned = plan(ledger, build_steps(settings))
        run_steps(ledger, planned, STEP_NAMES, stop)

def export(path, out):
    with Ledger(path) as ledger:
        planned = plan(ledger, build_steps(settings))
        export_curation(ledger, planned, settings.export, out)
    return {
        str(file.relative_to(out)): file.read_bytes()
        for file in out.rglob('*') if file.is_file()
        if not file.name.lower().startswith('datasheet')  # has costs, dates
    }

def killed(path, calls, before):
    """Run in a child that dies at a call of add_results; name its step."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        add, count = Ledger.add_results, 0
        def add_results(self, step, results):
            nonlocal count
            count += 1
            if count == calls:
                os.write(writer, self.steps()[step - 1][2].encode())
                if before:
                    os.kill(os.getpid(), signal.SIGKILL)
            add(self, step, results)
            if count == calls:
                os.kill(os.getpid(), signal.SIGKILL)
        Ledger.add_results = add_results
        try:
            run(path)
        finally:
            os._exit(0)
    os.close(writer)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with os.fdopen(reader) as pipe:
        step = pipe.read()
    return step if status == -signal.SIGKILL else None

def copy(name):
    return shutil.copy(folder / 'base.sqlite', folder / f'{name}.sqlite')

run(copy('whole'))
expected = export(folder / 'whole.sqlite', folder / 'whole')
assert len(expected) >= 3, list(expected)
rng = random.Random(7)
steps = []
while len(steps) < 20:
    path = copy(len(steps))
    while len(steps) < 20 and (
        step := killed(path, rng.randint(1, 6), rng.random() < 0.5)
    ):
        steps.append(step)
    run(path)
    assert export(path, folder / str(len(steps))) == expected
print(*steps)
'''


@pytest.fixture
def settings(monkeypatch):
    """The settings of a run that repairs at a server on the loopback."""
    pytest.importorskip('openai')
    monkeypatch.setenv('NO_PROXY', '127.0.0.1')
    with chat_endpoint() as endpoint:
        yield [*SETTINGS, f'repair.base_url={endpoint.url}']


def test_twenty_killed_runs_give_the_same_export(images, tmp_path, settings):
    base = tmp_path / 'base.sqlite'
    assert main(['curate', 'add', str(images), '--ledger', str(base)]) == 0
    done = subprocess.run(
        [sys.executable, '-c', PROGRAM, tmp_path, *settings],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    steps = done.stdout.split()
    assert len(steps) == 20
    assert set(steps) == {'describe', 'continue', 'repair', 'rules'}


@pytest.mark.slow
def test_a_process_that_is_killed_from_outside(
    images, tmp_path, settings, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(['curate', 'add', str(images)]) == 0
    words = [word for setting in settings for word in ('--set', setting)]
    process = subprocess.Popen(
        [sys.executable, '-m', 'minigpt4_cli.main', 'curate', 'run', *words]
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        with Ledger(tmp_path / 'curation.sqlite') as ledger:
            if any(list(ledger.results(s[0])) for s in ledger.steps()):
                break
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert main(['curate', 'run', *words]) == 0
    capsys.readouterr()
    assert main(['curate', 'status']) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ['describe', '12', '0', '0', '0'] in rows
