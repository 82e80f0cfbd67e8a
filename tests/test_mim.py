# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""OpenMMLab's mim on the wheel, in an environment of its own.

mim asks OpenMMLab's host for the weights. So that a server on loopback can
answer, the host's address in the *installed* metafile is replaced; all else
is as it comes out of the wheel.
"""

import functools
import http.server
import os
import shutil
import subprocess
import sys
import threading
import venv
from pathlib import Path

import pytest
from mmengine.config import Config

ROOT = Path(__file__).resolve().parents[1]
NAME = 'minigpt-4_vicuna-7b_caption'
CONFIG = 'configs/minigpt4/minigpt_4_vicuna_7b_caption.py'
HOST = 'https://download.openmmlab.com'
WEIGHTS = (
    'mmclassification/v1/minigpt4/'
    'minigpt-4_linear_vicuna7b_20230615-714b5f52.pth'
)
# What mim and a config of mmengine import, and nothing that they do not: no
# torch, no transformers. mim does not run on newer setuptools.
PACKAGES = (
    *('openmim==0.3.9', 'setuptools<82', 'click', 'colorama', 'model-index'),
    *('markdown', 'ordered-set', 'pyyaml', 'pandas', 'numpy', 'tabulate'),
    *('python-dateutil', 'six', 'requests', 'urllib3', 'idna', 'certifi'),
    *('charset-normalizer', 'rich', 'markdown-it-py', 'mdurl', 'pygments'),
    *('mmengine==0.10.7', 'addict', 'yapf', 'termcolor', 'platformdirs'),
    *('packaging', 'pip'),  # which mim asks what is installed
)

pytestmark = pytest.mark.slow


def run(*command: 'str | Path') -> str:
    done = subprocess.run(
        [str(word) for word in command],
        env={**os.environ, 'NO_PROXY': '127.0.0.1', 'PAGER': 'cat'},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f'{command}: {done.stdout}{done.stderr}'
    return done.stdout


@pytest.fixture(scope='module')
def bin_folder(tmp_path_factory) -> Path:
    """Programs of an environment with mim and our wheel."""
    folder = tmp_path_factory.mktemp('mim')
    venv.create(folder / 'env')
    bin_folder = folder / 'env' / 'bin'
    pip = (sys.executable, '-m', 'pip', '--python', bin_folder / 'python')
    asked = subprocess.run(
        [*pip, '--retries', '0', 'index', 'versions', 'openmim'],
        capture_output=True,
        text=True,
    )
    if asked.returncode:
        pytest.skip(f'no package index: {asked.stderr.splitlines()[-1]}')
    shutil.copytree(
        ROOT,
        folder / 'checkout',
        ignore=shutil.ignore_patterns(
            *('.*', '__pycache__', '*.egg-info', 'build', 'data', 'work_dirs')
        ),
    )
    run(
        *(sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps'),
        *('--no-build-isolation', '--no-index', '--wheel-dir', folder),
        folder / 'checkout',
    )
    (wheel,) = folder.glob('minigpt4-*.whl')
    run(*pip, 'install', '-q', '--no-deps', *PACKAGES, wheel)
    return bin_folder


@pytest.fixture
def hosted(bin_folder, tmp_path):
    """The bytes of the projection, which the metafile names on loopback."""
    data = os.urandom(300_000)
    file = tmp_path / 'host' / WEIGHTS
    file.parent.mkdir(parents=True)
    file.write_bytes(data)
    handler = functools.partial(
        http.server.SimpleHTTPRequestHandler, directory=tmp_path / 'host'
    )
    (metafile,) = bin_folder.parent.glob(
        'lib/*/site-packages/minigpt4/.mim/configs/minigpt4/metafile.yml'
    )
    text = metafile.read_text('utf-8')
    assert text.count(f'Weights: {HOST}/{WEIGHTS}\n') == 1
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here = f'http://127.0.0.1:{server.server_port}'
        metafile.write_text(text.replace(HOST, here), 'utf-8')
        yield data
        metafile.write_text(text, 'utf-8')
        server.shutdown()


def test_download(bin_folder, hosted, tmp_path):
    dest = tmp_path / 'D'
    run(
        *(bin_folder / 'mim', 'download', 'minigpt4'),
        *('--config', NAME, '--dest', dest),
    )
    assert {path.name for path in dest.iterdir()} == {
        *(f'{NAME}.py', Path(WEIGHTS).name)
    }
    assert (dest / Path(WEIGHTS).name).read_bytes() == hosted
    # whole: what it inherits is in it, its types as dotted names
    ours = Config.fromfile(ROOT / CONFIG)
    assert Config.fromfile(dest / f'{NAME}.py').to_dict() == ours.to_dict()


def test_list(bin_folder):
    lines = run(bin_folder / 'mim', 'list').splitlines()
    assert [line for line in lines if line.split()[0] == 'minigpt4']


def test_search(bin_folder):
    from minigpt4.weights.model_hub import our_models

    found = run(bin_folder / 'mim', 'search', 'minigpt4', '--valid-config')
    assert all(repr(name) in found for name in our_models())
    found = run(
        *(bin_folder / 'mim', 'search', 'minigpt4', '--config', NAME),
        *('--field', 'weight', 'config', '--display-width', '200'),
    )
    assert f'{HOST}/{WEIGHTS}' in found and CONFIG in found
