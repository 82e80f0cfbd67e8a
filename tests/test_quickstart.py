# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The arguments of tools/quickstart.sh; nothing is installed or trained."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / 'tools' / 'quickstart.sh'


@pytest.mark.parametrize(
    ('arguments', 'messages'),
    [
        (['--photos'], ['val2017.zip', 'annotations_trainval2017.zip']),
        (['--photos', ''], ['val2017.zip', 'annotations_trainval2017.zip']),
        (['--photos', '-h'], ['--photos FOLDER [OUTPUT]', 'found: -h']),
        (['--photos', 'missing'], ['missing is not a folder']),
        (['--photos', 'file.txt'], ['file.txt is not a folder']),
        (['--photos', '.', '--fast'], ['--photos FOLDER [OUTPUT]']),
        (['--epochs'], ['--photos FOLDER [OUTPUT]']),
        (['--help'], ['--photos FOLDER [OUTPUT]']),
        (['a', 'b'], ['--photos FOLDER [OUTPUT]']),
        (['a', 'max_iters=2'], ['--photos FOLDER [OUTPUT]']),
        (['--photos', '.', 'a', 'b'], ['--photos FOLDER [OUTPUT]']),
    ],
    ids=' '.join,
)
def test_wrong_arguments_end_the_script(tmp_path, arguments, messages):
    (tmp_path / 'file.txt').write_text('no folder')
    done = subprocess.run(
        ['bash', SCRIPT, *arguments],
        cwd=tmp_path,
        # a script that went on would need a Python, and find none
        env={**os.environ, 'MINIGPT4_PYTHON': '/nonexistent/python'},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2, done.stderr
    for message in messages:
        assert message in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ['file.txt']


# Stands for every Python program that the script starts: prints its name,
# fails where a file "fail" exists, and waits where a file "wait" exists.
PROGRAM = """#!/bin/bash
trap 'echo "$1: stopped by SIGINT"; exit 130' INT
trap 'echo "$1: stopped by SIGTERM"; exit 143' TERM
echo "$1 $2: these are in $PWD"
[ ! -e "$HERE/fail" ] || { echo 'error: no captions'; exit 1; }
touch "$HERE/started"
while [ -e "$HERE/wait" ]; do sleep 0.05; done
case "$*" in
*photo_data*) while [ "$1" != --out ]; do shift; done
    mkdir -p "$2"; touch "$2/images_test.txt";;
*train.py*) while [ "$1" != --work-dir ]; do shift; done
    mkdir -p "$2"; touch "$2/iter_2.pth";;
esac
"""


@pytest.fixture
def quickstart(tmp_path):
    """Starts the script with programs that do nothing."""
    script = SCRIPT.read_text().replace('bash tools/setup_env.sh', '')
    script = script.replace('source "${MINIGPT4_VENV:-.venv}', ': "')
    (tmp_path / 'tools').mkdir()
    (tmp_path / 'tools/quickstart.sh').write_text(script)
    (tmp_path / 'photos').mkdir()
    (tmp_path / 'bin').mkdir()
    for name in ('python', 'minigpt4'):
        program = tmp_path / 'bin' / name
        program.write_text(PROGRAM)
        program.chmod(0o755)

    def start(*words):
        return subprocess.Popen(
            ['bash', tmp_path / 'tools/quickstart.sh', *words],
            cwd=tmp_path,
            env={
                **os.environ,
                'PATH': f'{tmp_path}/bin:{os.environ["PATH"]}',
                'HERE': str(tmp_path),
                'checkpoint': 'of the shell of the user',
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


def output(process, status):
    text, _ = process.communicate(timeout=300)
    assert process.returncode == status, text
    return text


def test_the_whole_way_with_photographs(quickstart, tmp_path):
    words = ('--photos', 'photos', 'out put', 'max_iters=2')
    text = output(quickstart(*words), 0)
    assert '== stage 2: learn to describe' in text
    assert 'to use it: minigpt4 caption IMAGE' in text
    assert f'--pretrained {tmp_path}/out\\ put/stage2/iter_2.pth' in text
    # the same command once more: photographs are not read again
    text = output(quickstart(*words), 0)
    assert 'read the photographs' not in text
    log = (tmp_path / 'out put/quickstart.log').read_text()
    assert log.count('== done') == 2  # of both runs
    assert 'of the shell' not in log


@pytest.mark.parametrize(
    ('words', 'found'),
    [
        (('--photos', 'other'), 'other'),
        (('--photos', 'photos', 'max_iters=3'), 'photos max_iters=3'),
    ],
)
def test_results_of_other_photographs_or_settings_are_refused(
    quickstart, tmp_path, words, found
):
    (tmp_path / 'other').mkdir()
    output(quickstart('--photos', 'photos'), 0)
    text = output(quickstart(*words), 2)
    assert f'was made from {tmp_path}/photos, and this is ' in text
    assert f'{found}; name another OUTPUT, or remove that folder' in text


def test_a_folder_without_captions_does_not_occupy_the_output(
    quickstart, tmp_path
):
    (tmp_path / 'fail').touch()
    text = output(quickstart('--photos', 'tools'), 1)
    assert 'error: no captions\nstopped by an error; the complete' in text
    (tmp_path / 'fail').unlink()
    output(quickstart('--photos', 'photos'), 0)


@pytest.mark.parametrize(
    ('name', 'status'), [('SIGINT', 130), ('SIGTERM', 143)]
)
def test_a_stop_signal_goes_to_the_program(quickstart, tmp_path, name, status):
    (tmp_path / 'wait').touch()
    words = ('--photos', 'photos')
    process = quickstart(*words)
    for _ in range(6000):
        if (tmp_path / 'started').exists():
            break
        assert process.poll() is None
        time.sleep(0.05)
    text = output(quickstart(*words), 2)
    assert 'another quickstart.sh works in' in text
    process.send_signal(getattr(signal, name))
    text = output(process, status)
    assert f'stopped by {name}\nstopped; the same command continues' in text
    (tmp_path / 'wait').unlink()
    output(quickstart(*words), 0)


def test_a_file_is_no_folder_for_results(quickstart, tmp_path):
    (tmp_path / 'file').touch()
    for name in ('file', 'file/sub'):
        text = output(quickstart('--photos', 'photos', name), 2)
        assert f'{name} cannot be a folder for results; name another' in text
