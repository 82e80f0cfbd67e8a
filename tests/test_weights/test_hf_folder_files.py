# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Only files of the folder itself are copied from a Hugging Face folder."""

import json
import os
import shutil
from pathlib import Path

import pytest

from minigpt4.convert.huggingface_export import export_huggingface
from minigpt4.convert.huggingface_import import import_huggingface
from minigpt4.weights.hf_folder_files import copy_small_files
from minigpt4.weights.shipped import NANO_FOLDER as SHIPPED

NANO = 'minigpt-4_nano_caption'


@pytest.fixture
def folder(tmp_path) -> Path:
    source = tmp_path / 'source'
    source.mkdir()
    (source / 'config.json').write_text('{}')
    (source / 'model.safetensors').write_bytes(b'weights')
    return source


@pytest.fixture
def secret(tmp_path) -> Path:
    path = tmp_path / 'secret.txt'
    path.write_text('secret')
    return path


def test_links_to_files_outside_are_refused(folder, secret, tmp_path):
    (folder / 'tokenizer_secret.txt').symlink_to(secret)
    with pytest.raises(ValueError, match='is a link to .*secret.txt, outside'):
        copy_small_files(folder, tmp_path / 'out')
    (folder / 'tokenizer_secret.txt').unlink()
    (folder / 'extra').symlink_to(tmp_path)
    with pytest.raises(ValueError, match='is a link to'):
        copy_small_files(folder, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_links_within_the_folder_and_hard_links_are_copied(
    folder, secret, tmp_path
):
    (folder / 'a.txt').symlink_to('config.json')
    os.link(secret, folder / 'b.txt')
    copy_small_files(folder, tmp_path / 'out')
    assert (tmp_path / 'out' / 'a.txt').read_text() == '{}'
    assert not (tmp_path / 'out' / 'a.txt').is_symlink()
    assert (tmp_path / 'out' / 'b.txt').read_text() == 'secret'
    assert not (tmp_path / 'out' / 'model.safetensors').exists()


def hub_cache(root: Path, source: Path) -> Path:
    """A folder like those of the hub's cache, with links to blobs."""
    snapshot = root / 'models--org--name' / 'snapshots' / 'abc'
    blobs = root / 'models--org--name' / 'blobs'
    blobs.mkdir(parents=True)
    for path in sorted(source.rglob('*')):
        if path.is_file():
            name = path.relative_to(source)
            blob = blobs / str(name).replace('/', '_')
            shutil.copy(path, blob)
            link = snapshot / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


def test_snapshot_of_the_hub_cache_is_copied(folder, secret, tmp_path):
    snapshot = hub_cache(tmp_path / 'hub', folder)
    assert (snapshot / 'config.json').is_symlink()
    copy_small_files(snapshot, tmp_path / 'out')
    assert (tmp_path / 'out' / 'config.json').read_text() == '{}'
    (snapshot / 'x.txt').symlink_to(secret)
    with pytest.raises(ValueError, match='is a link to'):
        copy_small_files(snapshot, tmp_path / 'more')


def test_linked_blobs_are_refused(folder, tmp_path):
    snapshot = hub_cache(tmp_path / 'hub', folder)
    blobs = snapshot.parents[1] / 'blobs'
    blobs.rename(tmp_path / 'elsewhere')
    blobs.symlink_to(tmp_path / 'elsewhere')
    with pytest.raises(ValueError, match='is a link to'):
        copy_small_files(snapshot, tmp_path / 'out')


def test_import_and_export_from_the_hub_cache(tmp_path, secret):
    llm = hub_cache(tmp_path / 'llm', SHIPPED / 'llm')
    export_huggingface(NANO, None, tmp_path / 'hf', llm=llm)
    snapshot = hub_cache(tmp_path / 'hub', tmp_path / 'hf')
    import_huggingface(snapshot, tmp_path / 'ours')
    found = tmp_path / 'ours' / 'llm' / 'tokenizer.model'
    want = SHIPPED / 'llm' / 'tokenizer.model'
    assert found.read_bytes() == want.read_bytes()

    (tmp_path / 'hf' / 'llm' / 'more.txt').symlink_to(secret)
    with pytest.raises(ValueError, match='more.txt is a link to'):
        import_huggingface(tmp_path / 'hf', tmp_path / 'again')
    shutil.rmtree(tmp_path / 'hf' / 'llm')
    (tmp_path / 'hf' / 'llm').symlink_to(SHIPPED / 'llm')
    with pytest.raises(ValueError, match='llm is a link to'):
        import_huggingface(tmp_path / 'hf', tmp_path / 'again')
    (tmp_path / 'hf' / 'llm').unlink()
    (tmp_path / 'hf' / 'tokenizer_x.txt').symlink_to(secret)
    with pytest.raises(ValueError, match='tokenizer_x.txt is a link to'):
        import_huggingface(tmp_path / 'hf', tmp_path / 'again')
    (tmp_path / 'hf' / 'tokenizer_x.txt').unlink()
    config = json.loads((tmp_path / 'hf' / 'config.json').read_text())
    config['auto_map'] = {'AutoConfig': 'evil.C'}
    (tmp_path / 'hf' / 'config.json').write_text(json.dumps(config))
    with pytest.raises(ValueError, match='names code to run'):
        import_huggingface(tmp_path / 'hf', tmp_path / 'again')
    assert not (tmp_path / 'again').exists()
