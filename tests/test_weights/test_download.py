# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Fetching files, from a server on loopback that misbehaves on request."""

import errno
import hashlib
import http.server
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from minigpt4 import model_files
from minigpt4.utils.signals import StopSignal
from minigpt4.weights import download, transfer
from minigpt4.weights.download import fetch, record_of
from minigpt4_cli import main as cli

DATA = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(DATA).hexdigest()
HASHED = f'projection_20230615-{SHA256[:8]}.pth'  # as OpenMMLab names files
VARIABLES = (
    *('HF_HUB_OFFLINE', 'MINIGPT4_OFFLINE', 'MINIGPT4_MIRROR'),
    *('http_proxy', 'https_proxy', 'HTTP_PROXY', 'HTTPS_PROXY', 'all_proxy'),
)


class Server(http.server.ThreadingHTTPServer):
    """Serves DATA under every name, or what a test sets."""

    daemon_threads = True

    def __init__(self):
        super().__init__(('127.0.0.1', 0), Handler)
        self.data, self.etag, self.kind = DATA, '"one"', 'application/binary'
        self.statuses: list[int] = []  # of the next answers; then 200
        self.cuts: list[int] = []  # bytes after which the next answers break
        self.ranges = self.lengths = True
        self.stall = 0.0
        self.asked: list[tuple[str, str | None]] = []
        self.url = f'http://127.0.0.1:{self.server_port}/released'


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args):
        pass

    def do_GET(self):
        server = self.server
        wanted = self.headers.get('Range')
        server.asked.append((self.path.rpartition('/')[2], wanted))
        status = server.statuses.pop(0) if server.statuses else 200
        if status != 200:
            self.send_error(status)
            return
        start = 0
        if wanted and server.ranges:
            if self.headers['If-Range'] in (None, server.etag):
                start = int(wanted.removeprefix('bytes=').rstrip('-'))
        size = len(server.data)
        if start >= size:
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            sent = f'bytes {start}-{size - 1}/{size}'
            self.send_header('Content-Range', sent)
        self.send_header('ETag', server.etag)
        self.send_header('Content-Type', server.kind)
        if server.lengths or not start:
            self.send_header('Content-Length', str(size - start))
        self.end_headers()
        body = server.data[start:]
        if server.cuts:
            self.wfile.write(body[: server.cuts.pop(0)])
            self.wfile.flush()
            time.sleep(server.stall)
            self.close_connection = True
            return
        self.wfile.write(body)


@pytest.fixture
def server():
    with Server() as server:
        threading.Thread(
            target=server.serve_forever, args=(0.01,), daemon=True
        ).start()
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache, the network allowed, no waiting."""
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv('MINIGPT4_CACHE', str(tmp_path / 'cache'))
    monkeypatch.setattr(transfer, 'WAITS', (0.0, 0.0, 0.0))
    return tmp_path / 'cache'


def left_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix != '.lock'}


def test_whole(server, cache):
    path = fetch(f'{server.url}/a.pth')
    assert path == cache / 'a.pth' and path.read_bytes() == DATA
    assert left_in(cache) == {'a.pth', 'a.pth.json'}
    record = json.loads((cache / 'a.pth.json').read_text())
    assert record['sha256'] == SHA256 and record['size'] == len(DATA)
    assert record['url'] == f'{server.url}/a.pth'
    assert record['checked'] == 'size only: no published hash'


def test_a_file_that_is_there_is_neither_asked_for_nor_read(
    server, monkeypatch
):
    path = fetch(f'{server.url}/a.pth')
    monkeypatch.setattr(download, '_accept', pytest.fail)
    monkeypatch.setattr(download, '_lock', pytest.fail)  # nor written
    assert fetch(f'{server.url}/a.pth') == path
    assert fetch(f'{server.url}/a.pth', sha256=SHA256.upper()) == path
    assert len(server.asked) == 1


def test_a_file_that_changed_is_read_again(server, cache):
    path = fetch(f'{server.url}/{HASHED}')
    path.write_bytes(DATA[:-1] + b'x')
    assert fetch(f'{server.url}/{HASHED}').read_bytes() == DATA
    assert (cache / f'{HASHED}.wrong').stat().st_size == len(DATA)


def test_cut_downloads_are_resumed(server):
    server.cuts = [100_000, 50_000]
    assert fetch(f'{server.url}/a.pth').read_bytes() == DATA
    assert [r for _, r in server.asked] == [
        *(None, 'bytes=100000-', 'bytes=150000-')
    ]


def test_a_rest_of_unknown_length_may_be_cut_too(server):
    server.cuts, server.lengths = [100_000, 50_000], False
    assert fetch(f'{server.url}/a.pth').read_bytes() == DATA
    assert server.asked[-1] == ('a.pth', 'bytes=150000-')


def test_a_killed_download_is_resumed_by_the_next_call(server, cache):
    server.cuts = [100_000, 0, 0, 0]
    with pytest.raises(ConnectionError, match='cut off at 100,000 of 300,000'):
        fetch(f'{server.url}/a.pth')
    assert left_in(cache) == {'a.pth.part', 'a.pth.part.json'}
    assert fetch(f'{server.url}/a.pth').read_bytes() == DATA
    assert server.asked[-1] == ('a.pth', 'bytes=100000-')


def test_new_bytes_count_the_tries_anew(server):
    server.cuts = [20_000] * 10
    assert fetch(f'{server.url}/a.pth').read_bytes() == DATA


def test_a_server_without_ranges_starts_again(server):
    server.ranges, server.cuts = False, [100_000]
    assert fetch(f'{server.url}/a.pth').read_bytes() == DATA


def test_a_changed_file_is_not_glued_to_the_old_part(server):
    server.cuts = [100_000, 0, 0, 0]
    with pytest.raises(ConnectionError):
        fetch(f'{server.url}/a.pth')
    server.data, server.etag = DATA[::-1], '"two"'
    assert fetch(f'{server.url}/a.pth').read_bytes() == DATA[::-1]
    assert len(server.asked) == 4 + 1  # If-Range: the whole of it at once


def test_nor_by_a_server_that_ignores_if_range(server, monkeypatch):
    server.cuts = [100_000, 0, 0, 0]
    with pytest.raises(ConnectionError):
        fetch(f'{server.url}/a.pth')
    server.data, server.etag = DATA[::-1], '"two"'
    get = Handler.do_GET

    def ignore(self):
        del self.headers['If-Range']
        get(self)

    monkeypatch.setattr(Handler, 'do_GET', ignore)
    assert fetch(f'{server.url}/a.pth').read_bytes() == DATA[::-1]


@pytest.mark.parametrize('known_size', [300_000, 500_000])
def test_a_part_longer_than_the_file_is_dropped(server, cache, known_size):
    cache.mkdir()
    (cache / 'a.pth.part').write_bytes(bytes(400_000))
    (cache / 'a.pth.part.json').write_text(
        json.dumps(
            dict(place=f'{server.url}/a.pth', version='"one"', size=known_size)
        )
    )
    assert fetch(f'{server.url}/a.pth').read_bytes() == DATA


def test_busy_servers_are_asked_again(server):
    server.statuses = [503, 429]
    assert fetch(f'{server.url}/a.pth').read_bytes() == DATA


def test_a_stalled_connection_is_given_up_and_resumed(server, monkeypatch):
    monkeypatch.setattr(transfer, 'TIMEOUT', 0.2)
    server.cuts, server.stall = [100_000], 1.0
    start = time.time()
    assert fetch(f'{server.url}/a.pth').read_bytes() == DATA
    assert server.asked[-1] == ('a.pth', 'bytes=100000-')
    assert time.time() - start < 0.9


@pytest.mark.parametrize('sha256', [None, '0' * 64])
def test_another_file_is_refused(server, cache, sha256):
    server.data = DATA if sha256 else DATA[:-1]
    with pytest.raises(ConnectionError) as caught:
        fetch(f'{server.url}/{HASHED}', sha256=sha256)
    expected = sha256 or SHA256[:8]
    assert f'expected {expected}' in str(caught.value)
    assert 'another file: its SHA-256 begins with' in str(caught.value)
    assert not left_in(cache)


@pytest.mark.parametrize(
    'kind, page',
    [
        ('text/html; charset=utf-8', b'Please sign in.'),
        ('binary/x', b'\n<!DOCTYPE html><html>Please sign in.</html>'),
    ],
)
def test_a_web_page_is_refused(server, cache, kind, page):
    server.data, server.kind = page, kind
    with pytest.raises(ConnectionError, match='a web page'):
        fetch(f'{server.url}/a.pth')
    assert not left_in(cache)


def test_a_pointer_of_git_lfs_is_refused(server, cache):
    server.data = b'version https://git-lfs.github.com/spec/v1\noid 0\n'
    with pytest.raises(ConnectionError, match='a Git LFS pointer instead'):
        fetch(f'{server.url}/a.pth')
    assert not left_in(cache)


def test_mirrors_come_first_then_the_url(server, monkeypatch):
    server.statuses = [404, 403]
    mirror = server.url.replace('released', 'mirror')
    monkeypatch.setenv('MINIGPT4_MIRROR', f'{mirror}/, {mirror}/deep')
    path = fetch(f'{server.url}/a.pth?token=secret')
    assert path.read_bytes() == DATA and path.name == 'a.pth'
    names = [name for name, _ in server.asked]
    assert names == ['a.pth', 'a.pth', 'a.pth?token=secret']


def test_a_folder_can_be_a_mirror_even_offline(
    server, tmp_path, monkeypatch, cache
):
    (tmp_path / 'my mirror').mkdir()
    (tmp_path / 'my mirror' / HASHED).write_bytes(DATA)
    monkeypatch.setenv('MINIGPT4_MIRROR', str(tmp_path / 'my mirror'))
    monkeypatch.setenv('MINIGPT4_OFFLINE', '1')
    assert fetch(f'{server.url}/{HASHED}').read_bytes() == DATA
    assert not server.asked
    assert record_of(cache / HASHED)['place'].startswith('file:')


def test_the_argument_mirrors(server, tmp_path):
    (tmp_path / 'a.pth').write_bytes(DATA)
    other = tmp_path / 'other'
    path = fetch(f'{server.url}/a.pth', folder=other, mirrors=[str(tmp_path)])
    assert path == other / 'a.pth' and not server.asked


def test_a_wrong_file_of_a_mirror_is_passed_over(
    server, tmp_path, monkeypatch
):
    (tmp_path / HASHED).write_bytes(b'something else')
    monkeypatch.setenv('MINIGPT4_MIRROR', str(tmp_path))
    assert fetch(f'{server.url}/{HASHED}').read_bytes() == DATA


def test_everything_fails_in_one_sentence(
    server, tmp_path, monkeypatch, cache
):
    server.statuses = [404]
    monkeypatch.setenv('MINIGPT4_MIRROR', str(tmp_path))
    with pytest.raises(ConnectionError) as caught:
        fetch(f'{server.url}/a.pth?token=secret')
    assert str(caught.value) == (
        f'a.pth could not be fetched ({tmp_path}/a.pth: No such file or '
        f'directory; {server.url}/a.pth: HTTP 404 Not Found); get it some '
        f'other way and put it at {cache}/a.pth, or name a folder or URL '
        'that has it in MINIGPT4_MIRROR.'
    )


def test_nobody_listens():
    with pytest.raises(ConnectionError, match='Connection refused, 4 times'):
        fetch('http://127.0.0.1:9/a.pth')


@pytest.mark.parametrize('variable', ['MINIGPT4_OFFLINE', 'HF_HUB_OFFLINE'])
def test_offline_nothing_is_asked(server, monkeypatch, cache, variable):
    monkeypatch.setenv(variable, '1')
    with pytest.raises(ConnectionError) as caught:
        fetch(f'{server.url}/a.pth')
    assert f'put it at {cache}/a.pth' in str(caught.value)
    assert not server.asked
    (cache / 'a.pth').write_bytes(DATA)  # as the sentence says
    assert fetch(f'{server.url}/a.pth').read_bytes() == DATA
    record = record_of(cache / 'a.pth')
    assert record['place'] == 'found there'
    assert record['checked'] == 'nothing: no published hash'


def test_a_wrong_file_put_there_is_set_aside(server, cache):
    cache.mkdir()
    (cache / HASHED).write_bytes(b'half of it')
    assert fetch(f'{server.url}/{HASHED}').read_bytes() == DATA
    assert (cache / f'{HASHED}.wrong').read_bytes() == b'half of it'


def test_two_urls_of_one_name_are_not_mixed_up(server):
    fetch(f'{server.url}/a.pth')
    with pytest.raises(FileExistsError, match='was fetched from .*/released/'):
        fetch(f'{server.url}/other/a.pth')
    fetch(f'{server.url}/{HASHED}')
    fetch(f'{server.url}/other/{HASHED}')  # the hash tells it is the same


def test_too_little_space_is_told_before_it_is_used(server, monkeypatch):
    usage = shutil.disk_usage('.')._replace(free=1000)
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage)
    with pytest.raises(OSError, match='300.0 kB wanted, 1.0 kB free') as error:
        fetch(f'{server.url}/a.pth')
    assert error.value.errno == errno.ENOSPC
    assert len(server.asked) == 1


def test_a_disk_that_fills_up_keeps_the_part(server, monkeypatch, cache):
    def full(path, mode):
        file = open(path, mode)
        if mode != 'ab':
            return file
        file.close()
        path.write_bytes(DATA[:1000])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(transfer, 'open', full, raising=False)
        with pytest.raises(OSError, match='no space for a.pth') as error:
            fetch(f'{server.url}/a.pth')
    assert 'what has arrived is kept' in str(error.value)
    assert fetch(f'{server.url}/a.pth').read_bytes() == DATA
    assert server.asked[-1] == ('a.pth', 'bytes=1000-')


def test_a_stopped_download_keeps_the_part(server, monkeypatch, cache):
    def stop(path, mode):
        file = open(path, mode)
        if mode != 'ab':
            return file
        file.close()
        path.write_bytes(DATA[:1000])
        raise StopSignal(15)

    with monkeypatch.context() as patch:
        patch.setattr(transfer, 'open', stop, raising=False)
        with pytest.raises(StopSignal):
            fetch(f'{server.url}/a.pth')
    assert {'a.pth.part', 'a.pth.part.json'} <= {*left_in(cache)}
    assert 'a.pth' not in left_in(cache)
    assert fetch(f'{server.url}/a.pth').read_bytes() == DATA
    assert server.asked[-1] == ('a.pth', 'bytes=1000-')


def test_a_mirror_with_a_file_that_blocks(server, tmp_path):
    os.mkfifo(tmp_path / 'a.pth')
    found = fetch(f'{server.url}/a.pth', mirrors=[str(tmp_path)])
    assert found.read_bytes() == DATA


def test_a_cache_that_cannot_be_written(server, monkeypatch):
    def forbidden(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, 'mkdir', forbidden)
    with pytest.raises(PermissionError, match='another folder in MINIGPT4_CA'):
        fetch(f'{server.url}/a.pth')


@pytest.mark.parametrize('url', ['a.pth', 'ftp://host/a.pth', 'http://host/'])
def test_not_an_address(url):
    with pytest.raises(ValueError, match='no http or https address'):
        fetch(url)


def test_a_hash_that_is_none(server):
    """Told before the download, which would be thrown away."""
    with pytest.raises(ValueError, match='sha256:.* is no SHA-256; give'):
        fetch(f'{server.url}/a.pth', sha256=f'sha256:{SHA256}')
    assert not server.asked


def test_an_escaped_name(server, cache, capsys):
    url = f'{server.url}/my%20file.pth'
    assert fetch(url) == cache / 'my file.pth'
    assert cli.main(['download', url, '--dry-run']) == 0
    assert str(cache / 'my file.pth') in capsys.readouterr().out


def test_a_date_is_no_hash():
    assert download.expected_hash('http://h/model-20230615.pth') is None
    assert download.expected_hash(f'http://h/{HASHED}?a=b') == SHA256[:8]


def test_the_default_cache(monkeypatch):
    monkeypatch.delenv('MINIGPT4_CACHE')
    monkeypatch.setenv('XDG_CACHE_HOME', '/xdg')
    assert download.cache_folder() == Path('/xdg/minigpt4')
    monkeypatch.delenv('XDG_CACHE_HOME')
    monkeypatch.setenv('HOME', '/here')
    assert download.cache_folder() == Path('/here/.cache/minigpt4')


FETCH_ALONE = """
import sys, types
package = types.ModuleType('minigpt4')  # this module alone starts faster
package.__path__ = [sys.argv[1]]
log = types.SimpleNamespace(print_log=lambda line, **_: print(line))
sys.modules |= {'minigpt4': package, 'mmengine.logging': log}
sys.modules['mmengine'] = types.ModuleType('mmengine')
from minigpt4.weights.download import fetch
print(fetch(sys.argv[2]))
"""


def test_processes_do_not_get_into_each_others_way(server, cache):
    server.cuts, server.stall = [100_000], 0.5
    command = [
        *(sys.executable, '-c', FETCH_ALONE),
        *(str(Path(download.__file__).parents[1]), f'{server.url}/{HASHED}'),
    ]
    runs = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for run in runs:
        assert run.communicate()[0].splitlines()[-1] == str(cache / HASHED)
        assert run.returncode == 0
    assert (cache / HASHED).read_bytes() == DATA
    assert [r for _, r in server.asked] == [None, 'bytes=100000-']


@pytest.fixture
def published(server, monkeypatch) -> str:
    """The 7B model of the hub, its files on the server."""
    name = 'minigpt-4_vicuna-7b_caption'
    files, llm = model_files.needed_files(name)
    here = [
        model_files.Needed(
            file.part, f'{server.url}/{model_files._name(file)}'
        )
        for file in files
    ]
    here[-1] = model_files.Needed('head', f'{server.url}/{HASHED}')
    monkeypatch.setattr(model_files, 'needed_files', lambda _: (here, llm))
    return name


def test_verb(server, published, capsys, tmp_path):
    assert (
        cli.main(['download', published, '--dest', str(tmp_path / 'd')]) == 0
    )
    out = capsys.readouterr().out
    names = {'eva_vit_g.pth', 'blip2_pretrained_flant5xxl.pth', HASHED}
    assert names <= left_in(tmp_path / 'd')
    assert all(str(tmp_path / 'd' / name) in out for name in names)
    assert out.count('no published hash') >= 2
    assert '8 digits of its SHA-256' in out and '300.0 kB' in out
    assert 'MINIGPT4_LLM' in out and 'Vision-CAIR/vicuna-7b' in out
    assert f'export MINIGPT4_CACHE={tmp_path / "d"}' in out


def test_verb_goes_on_after_a_failure(server, published, capsys, cache):
    server.statuses = [404]
    assert cli.main(['download', published]) == 1
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert line.startswith('eva_vit_g.pth could not be fetched')
    assert 'not here' in out
    assert {'blip2_pretrained_flant5xxl.pth', HASHED} <= left_in(cache)


def test_verb_dry_run(server, published, capsys, cache):
    assert cli.main(['download', published, '--dry-run', '--llm']) == 0
    out = capsys.readouterr().out
    assert out.count('would go to') == 3 and 'would be fetched' in out
    assert not server.asked and not cache.exists()


def test_verb_takes_a_url(server, capsys):
    url = f'{server.url}/a.pth'
    assert cli.main(['download', url, '--sha256', SHA256]) == 0
    assert 'its SHA-256' in capsys.readouterr().out
    assert (
        cli.main(['download', f'{server.url}/b.pth', '--sha256', 'ab' * 32])
        == 1
    )
    assert f'expected {"ab" * 32}' in capsys.readouterr().err


def test_verb_lists(capsys):
    assert cli.main(['download', '--list']) == 0
    out = capsys.readouterr().out
    for name in model_files.our_models():
        assert name in out
    assert 'LAVIS/models/BLIP2/eva_vit_g.pth' in out


@pytest.mark.parametrize(
    'name, hint',
    [
        ('minigpt-4_vicuna-7b', 'mean minigpt-4_vicuna-7b_caption'),
        ('blip2', 'there are minigpt-4_nano_caption'),
    ],
)
def test_verb_and_a_name_that_is_unknown(capsys, name, hint):
    assert cli.main(['download', name]) == 2
    assert hint in capsys.readouterr().err


def test_verb_for_what_is_shipped_needs_no_network(capsys, monkeypatch):
    monkeypatch.setattr(transfer, 'urlopen', pytest.fail)
    assert cli.main(['download', 'minigpt-4_nano_caption']) == 0
    assert 'minigpt4_nano.pth' in capsys.readouterr().out


def test_verb_says_what_no_one_hosts(server, capsys, monkeypatch):
    monkeypatch.setenv('MINIGPT4_OFFLINE', '1')
    assert cli.main(['download', 'minigpt-4_llama2-7b_caption']) == 1
    out, err = capsys.readouterr()
    assert 'head: no projection is hosted' in out
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize('kind', ['.safetensors', '.bin'])
def test_verb_llm(server, published, capsys, monkeypatch, tmp_path, kind):
    import huggingface_hub

    asked = []

    def snapshot(repository, **settings):
        asked.append((repository, settings))
        return str(tmp_path / 'llm')

    names = ['config.json', 'pytorch_model.bin', f'model{kind}']
    monkeypatch.setattr(huggingface_hub, 'list_repo_files', lambda _: names)
    monkeypatch.setattr(huggingface_hub, 'snapshot_download', snapshot)
    assert cli.main(['download', published, '--llm']) == 0
    ((repository, settings),) = asked
    assert repository == 'Vision-CAIR/vicuna-7b'
    patterns = settings['allow_patterns']
    assert f'*{kind}' in patterns and '*.json' in patterns
    assert len({'*.bin', '*.safetensors'} & set(patterns)) == 1
    assert f'MINIGPT4_LLM={tmp_path / "llm"}' in capsys.readouterr().out


def test_verb_llm_that_cannot_be_had(published, capsys, monkeypatch):
    monkeypatch.setenv('MINIGPT4_OFFLINE', '1')
    assert cli.main(['download', published, '--llm']) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith('the LLM Vision-CAIR/vicuna-7b could not be fetch')


def test_verb_with_an_llm_of_ones_own(
    server, published, capsys, monkeypatch, tmp_path
):
    monkeypatch.setenv('MINIGPT4_LLM', str(tmp_path))
    assert cli.main(['download', published, '--llm']) == 0
    assert f'LLM: {tmp_path}' in capsys.readouterr().out


def test_the_hub_fetches_published_weights_here(server, cache):
    """MMPretrain's get_model loads them through mmengine."""
    import torch
    from mmengine.runner import CheckpointLoader

    from minigpt4.weights import hub

    (url,) = (
        model.weights
        for model in hub.our_models().values()
        if (model.weights or '').startswith('http')
    )
    from mmpretrain import list_models

    list_models('minigpt-4*')
    name = url.rpartition('/')[2]
    cache.mkdir()
    torch.save(dict(llama_proj=torch.ones(2)), cache / name)
    stat = (cache / name).stat()
    record = dict(url=url, sha256='714b5f52', size=stat.st_size)
    record['mtime_ns'] = stat.st_mtime_ns
    (cache / f'{name}.json').write_text(json.dumps(record))
    loaded = CheckpointLoader.load_checkpoint(url, 'cpu')
    assert loaded['llama_proj'].sum() == 2


@pytest.mark.parametrize('size', ['vicuna-13b', 'llama2-7b'])
def test_get_model_of_what_no_one_hosts(size):
    from mmpretrain import list_models

    import minigpt4

    name = f'minigpt-4_{size}_caption'
    assert name in list_models('minigpt*')
    with pytest.raises(ValueError, match='give the file of one as pretrained'):
        minigpt4.get_model(name)
    with pytest.raises(FileNotFoundError, match='does not exist'):
        minigpt4.get_model(
            name,
            pretrained='projection.pth',
            backbone=dict(checkpoint=None, arch='nano'),
            neck=dict(checkpoint=None, in_channels=128)
            if size == 'vicuna-13b'
            else dict(merge=4),
            decoder=dict(name_or_path='/nowhere/llm'),
        )


@pytest.mark.parametrize(
    'address, message',
    [
        ('ftp://host/x.pth', 'is a ftp address; expected http or https'),
        ('http://[bad/x.pth', 'is not an address of a file'),
    ],
)
def test_what_is_no_web_address_is_refused(capsys, address, message):
    assert cli.main(['download', address]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f'error: {address}') and message in err


def test_a_name_is_no_markup_and_controls_no_terminal(capsys, monkeypatch):
    monkeypatch.setenv('MINIGPT4_OFFLINE', '1')
    assert (
        cli.main(['download', 'http://host.invalid/x[bold]\x1b[31m.pth']) == 1
    )
    out, err = capsys.readouterr()
    assert 'x[bold]' in out and '\x1b' not in out + err
