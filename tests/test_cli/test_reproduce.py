# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 reproduce``: a shortened reproduction, killed and continued."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from minigpt4.reproduction.nano import NANO
from minigpt4.reproduction.plan import Plan

pytestmark = pytest.mark.slow


def command(out, *options):
    return [
        *(sys.executable, '-m', 'minigpt4_cli.main', 'reproduce'),
        *('-o', str(out), '--seeds', '1', '--share', '0.002', '--jobs', '2'),
        *options,
    ]


def kill_after(words, line):
    """Kill a command as soon as it has printed a line."""
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    lines = iter(process.stdout.readline, '')
    assert any(line in found for found in lines)
    process.send_signal(signal.SIGKILL)
    process.wait()


def run_again(words):
    """Run a command again after it was killed; its output."""
    end = time.monotonic() + 300  # children end with their parent
    while time.monotonic() < end:
        found = subprocess.run(words, capture_output=True, text=True)
        if 'another' not in found.stderr:
            break
        time.sleep(1)
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def ended_steps(out):
    """The files of the steps that have ended, with their times."""
    steps = next(out.glob('work-*')) / 'steps'
    return {path.name: path.stat().st_mtime_ns for path in steps.iterdir()}


@pytest.fixture
def photos(tmp_path) -> Path:
    """Some photographs of ``MINIGPT4_PHOTOS`` with their captions."""
    source = os.environ.get('MINIGPT4_PHOTOS')
    if not source:
        pytest.skip('MINIGPT4_PHOTOS does not name a folder of photographs')
    folder = tmp_path / 'photos'
    for split, number in (('train', 40), ('test', 4)):
        (folder / split).mkdir(parents=True)
        file = Path(source, f'captions_{split}.json')
        content = json.loads(file.read_text('utf-8'))
        content['images'] = content['images'][:number]
        kept = {image['id'] for image in content['images']}
        content['annotations'] = [
            record
            for record in content['annotations']
            if record['image_id'] in kept
        ]
        (folder / file.name).write_text(json.dumps(content), 'utf-8')
        for image in content['images']:
            name = image['file_name']
            shutil.copy(Path(source, split, name), folder / split / name)
    return folder


@pytest.mark.parametrize('debug', [False, True])
def test_debug_is_for_the_steps_too(tmp_path, debug):
    out = tmp_path / 'out'
    words = command(out, '--nano', '--only', 'stage1', '--jobs', '1')
    # a data folder that is a file fails the first step
    folder = out / f'work-{Plan(NANO, [1], 0.002).digest}'
    folder.mkdir(parents=True)
    (folder / 'data').write_text('')
    found = subprocess.run(
        [*words, *(['--debug'] if debug else [])],
        capture_output=True,
        text=True,
    )
    assert found.returncode == 1 and 'data failed' in found.stdout
    assert 'if one of these files is damaged, delete it' in found.stdout
    facts = json.loads((out / 'scores.json').read_text())['facts']
    # nothing else, so that it can be given again
    assert facts['command'] == (
        'minigpt4 reproduce --nano -o DIR --seeds 1 --only stage1 '
        '--share 0.002'
    )
    assert 'scores mean nothing' in facts['share']
    assert facts['steps ended'] == 'none'
    assert facts['machine'] == facts['versions'] == 'none'
    log = (folder / 'logs' / 'data.log').read_text()
    assert ('Traceback' in log) == debug
    assert log.splitlines()[-1].startswith('error: ')


def test_a_killed_reproduction_continues(tmp_path):
    out = tmp_path / 'out'
    # with this share both have the same settings
    twice = ('stage2', 'stage2_100_iterations')
    only = (word for name in twice for word in ('--only', name))
    words = command(out, '--nano', *only)
    kill_after(words, '[1/10] data in')
    first = ended_steps(out)
    assert 'data.json' in first
    output = run_again(words)
    assert 'steps have ended before' in output
    assert f'report: {out / "report.html"}' in output
    now = ended_steps(out)
    assert len(now) == 10
    assert {name: now[name] for name in first} == first
    scores = json.loads((out / 'scores.json').read_text())
    assert [row['training'] for row in scores['scores']] == [
        'stage1',
        *twice,
    ]
    assert not scores['problems']
    assert '--only stage2 --only' in scores['facts']['command']
    assert 'held-out scenes are in' in scores['facts']['data']
    assert 'held-out scenes are in' in (out / 'report.html').read_text()
    assert 'data: ' in output and 'held-out scenes are in' in output
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


def test_a_closed_output_does_not_stop_the_run(tmp_path):
    out = tmp_path / 'out'
    # a data folder that is a file fails the first step
    folder = out / f'work-{Plan(NANO, [1], 0.002).digest}'
    folder.mkdir(parents=True)
    (folder / 'data').write_text('')
    process = subprocess.Popen(
        command(out, '--nano', '--only', 'stage1'),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert 'steps, 2 at the same time' in process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read().count('the run goes on without it') == 1
    assert process.wait() == 1
    assert 'data failed' in (out / 'scores.json').read_text()


def limited(words, limit):
    """Run a command that may have a number of open files."""
    return subprocess.run(
        ['bash', '-c', f'ulimit {limit}; exec "$@"', '-', *words],
        capture_output=True,
        text=True,
    )


def test_few_open_files_are_raised_or_refused(tmp_path):
    words = command(tmp_path, '--nano', '--only', 'stage1')
    found = limited(words, '-n 128')  # soft and hard
    assert found.returncode == 1
    assert 'may have 128 open files, expected at least' in found.stderr
    assert not list(tmp_path.iterdir())
    found = limited(words, '-S -n 128')
    assert found.returncode == 0, found.stdout + found.stderr


def test_what_is_missing_or_damaged_never_changes_scores(tmp_path):
    out = tmp_path / 'out'
    words = command(out, '--nano', '--only', 'blip2')
    run_again(words)
    whole = json.loads((out / 'scores.json').read_text())['scores']
    assert [row['training'] for row in whole] == ['blip2']
    (work,) = out.glob('work-*')
    (results,) = work.glob('runs/blip2-*/scenes-*')
    # damage that keeps its size is not noticed before the test
    image = work / 'data' / 'nano' / 'test' / 'image' / '0.jpg'
    image.write_bytes(bytes(image.stat().st_size))
    (results / 'scores.json').unlink()
    found = subprocess.run(words, capture_output=True, text=True)
    assert found.returncode == 1
    assert 'records were scored, expected all' in found.stdout
    assert not json.loads((out / 'scores.json').read_text())['scores']
    # what it says repairs it
    image.unlink()
    llm = work / 'weights' / 'nano_captions' / 'llm' / 'model.safetensors'
    llm.unlink()
    output = run_again(words)
    assert 'data runs again: data/nano/test/image/0.jpg is missing' in output
    assert 'runs again: weights/nano_captions/llm/model.safet' in output
    assert json.loads((out / 'scores.json').read_text())['scores'] == whole
    # also where a training needs it
    shutil.rmtree(work / 'data' / 'nano' / 'stage1')
    for checkpoint in work.glob('runs/blip2-*/iter_*.pth'):
        checkpoint.unlink()
    (results / 'scores.json').unlink()
    output = run_again(words)
    assert 'data runs again: data/nano/stage1/a/00000.tar is' in output
    assert json.loads((out / 'scores.json').read_text())['scores'] == whole


@pytest.mark.timeout(3600)  # 13 steps, more than 600 s where others work
def test_a_killed_reproduction_on_photographs_continues(
    tmp_path, photos, small_cache
):
    out = tmp_path / 'out'
    words = command(out, '--small', str(photos), '--only', 'stage2')
    kill_after(words, '_stage2_small_')  # stage 1 is trained next
    first = ended_steps(out)
    output = run_again(words)
    assert 'steps have ended before' in output
    now = ended_steps(out)
    assert len(now) == 13
    assert {name: now[name] for name in first} == first
    scores = json.loads((out / 'scores.json').read_text())
    assert not scores['problems']
    assert f'--small {photos}' in scores['facts']['command']
    rows = {row['training']: row for row in scores['scores']}
    assert set(rows) == {'stage1', 'stage2'}
    for row in rows.values():
        for score in ('preferred', 'recall', 'finished', 'poem_failures'):
            assert 0 <= row[score] <= 1
    page = (out / 'report.html').read_text()
    for text in (
        'stage 2 repairs broken descriptions',
        'image/svg+xml',
        'Describe the image in detail.',
        'src="data:image/jpeg;base64,',
    ):
        assert text in page


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


@pytest.mark.parametrize('option', ['-o', '--small'])
def test_a_path_that_is_not_utf8_is_refused(tmp_path, option):
    words = [os.fsencode(word) for word in command(tmp_path / 'out')]
    path = os.fsencode(tmp_path / 'a') + b'\xff'
    found = subprocess.run(
        [*words, option, path], capture_output=True, text=True
    )
    assert found.returncode == 2
    assert r'a\udcff is not UTF-8; give a folder with' in found.stderr
    assert not list(tmp_path.iterdir())


def test_a_signal_to_all_before_the_first_step_is_named(tmp_path):
    out = tmp_path / 'out'
    process = subprocess.Popen(
        command(out, '--nano', '--only', 'stage1'),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert 'steps, 2 at the same time' in process.stdout.readline()
    os.killpg(process.pid, signal.SIGTERM)
    error = process.communicate()[1]
    assert process.returncode == 128 + signal.SIGTERM, error
    assert 'the same command continues' in error
    assert 'EOFError' not in error


def test_a_config_that_changes_during_the_run_counts_for_the_next(tmp_path):
    root = tmp_path / 'root'
    for name in ('configs', 'tools', 'projects'):
        source = Path(__file__).parents[2] / name
        ignored = shutil.ignore_patterns('__pycache__', '.mim', '*.egg-info')
        shutil.copytree(source, root / name, ignore=ignored)
    out = tmp_path / 'out'
    process = subprocess.Popen(
        command(out, '--nano', '--only', 'stage1'),
        stdout=subprocess.PIPE,
        text=True,
        env=dict(os.environ, PYTHONPATH=str(root / 'projects')),
    )
    assert 'steps, 2 at the same time' in process.stdout.readline()
    config = root / 'configs' / 'minigpt4' / 'stage1_nano.py'
    config.write_text(
        f"{config.read_text()}\noptim_wrapper['optimizer'].update(lr=1e-9)\n"
    )
    output = process.communicate()[0]
    assert process.returncode == 0, output
    used = [
        file.read_text()
        for file in out.glob('work-*/runs/stage1-*/**/config.py')
    ]
    assert used and not any('1e-09' in text for text in used)


def test_a_missing_folder_of_photographs_is_refused(tmp_path):
    words = command(tmp_path / 'out', '--small', str(tmp_path / 'missing'))
    found = subprocess.run(words, capture_output=True, text=True)
    assert found.returncode == 2
    assert 'missing: there is no such folder; expected' in found.stderr
    assert not (tmp_path / 'out').exists()


def test_results_among_the_photographs_are_refused(tmp_path):
    words = command(tmp_path / 'out', '--small', str(tmp_path))
    found = subprocess.run(words, capture_output=True, text=True)
    assert found.returncode == 2
    assert 'is in the folder of the photographs' in found.stderr
    assert not (tmp_path / 'out').exists()


def test_one_model_is_chosen(tmp_path):
    words = command(tmp_path / 'out', '--nano', '--small', str(tmp_path))
    found = subprocess.run(words, capture_output=True, text=True)
    assert found.returncode == 2
    assert 'not allowed with argument --nano' in found.stderr
