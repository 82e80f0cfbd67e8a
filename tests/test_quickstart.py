# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The arguments of tools/quickstart.sh; nothing is installed or trained."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / 'tools' / 'quickstart.sh'


@pytest.mark.parametrize(
    ('arguments', 'messages'),
    [
        (['--photos'], ['val2017.zip', 'annotations_trainval2017.zip']),
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
        timeout=60,
    )
    assert done.returncode == 2, done.stderr
    for message in messages:
        assert message in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ['file.txt']


def test_photographs_of_another_folder_are_not_continued(tmp_path):
    (tmp_path / 'out put').mkdir()
    (tmp_path / 'out put/photos.txt').write_text('/other/photos\n')
    script = SCRIPT.read_text().replace('bash tools/setup_env.sh', '')
    script = script.replace('source "${MINIGPT4_VENV:-.venv}', ': "')
    tools = tmp_path / 'tools'
    tools.mkdir()
    (tools / 'quickstart.sh').write_text(script)
    done = subprocess.run(
        ['bash', tools / 'quickstart.sh', '--photos', '.', 'out put'],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert 'was made from /other/photos; name another OUTPUT' in done.stderr
