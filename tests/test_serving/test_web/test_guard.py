# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The requests of the page: routes, bodies, events, uploads."""

import io
import json
import os
from pathlib import Path

import pytest
from PIL import Image

from minigpt4.serving.http.parse_request import RequestLimits
from minigpt4.serving.web.example_list import EXAMPLES
from minigpt4.serving.web.page import mount_page

pytest.importorskip('gradio', reason='needs minigpt4[web]')

NAME = 'minigpt-4_nano_caption'
UPLOAD = '/gradio_api/upload'
JOIN = '/gradio_api/queue/join'
CONTROLS = ['Greedy', 1.0, 0.9, None, 2, 20]


@pytest.fixture(scope='module')
def client(worker, model):
    """A client of a server with the page."""
    from starlette.applications import Starlette
    from starlette.testclient import TestClient

    app = Starlette()
    limits = RequestLimits(images=2, max_tokens=60, text=500)
    mount_page(app, worker, model, NAME, limits=limits, upload_bytes=400_000)
    with TestClient(app) as client:
        yield client


def png(size=(8, 8)) -> bytes:
    out = io.BytesIO()
    Image.frombytes('RGB', size, os.urandom(size[0] * size[1] * 3)).save(
        out, 'PNG'
    )
    return out.getvalue()


def upload(client, *files: bytes, **headers):
    parts = [('files', ('a.png', data, 'image/png')) for data in files]
    return client.post(UPLOAD, files=parts, headers=headers)


@pytest.fixture(scope='module')
def submit(client) -> int:
    """The number of the event that asks a question."""
    config = client.get('/config').json()
    return next(
        each['id']
        for each in config['dependencies']
        if len(each['inputs']) == 8
    )


def ask(client, submit, text='', files=(), controls=CONTROLS, **extra):
    body = dict(
        data=[None, dict(text=text, files=list(files)), *controls],
        fn_index=submit,
        session_hash='abc123',
        event_data=None,
        trigger_id=None,
    )
    return client.post(
        JOIN,
        content=json.dumps({**body, **extra}),
        headers={'content-type': 'application/json'},
    )


def file(path, meta=True) -> dict:
    found = dict(path=str(path), orig_name='a.png', mime_type='image/png')
    return dict(found, meta={'_type': 'gradio.FileData'}) if meta else found


@pytest.mark.parametrize(
    'wrong',
    [
        *(dict(fn_index=number) for number in (99999, -1, True, None, '1')),
        *(dict(data=data) for data in (None, {}, 'text')),
    ],
)
def test_unknown_event_is_refused(client, submit, wrong):
    answer = ask(client, submit, **wrong)
    assert answer.status_code == 400
    assert next(iter(wrong)) in answer.json()['detail']


# reading /dev/zero never ends; the start of the page may take long
@pytest.mark.timeout(120, func_only=True)
@pytest.mark.parametrize('meta', [True, False])
def test_only_uploaded_files_may_be_named(client, submit, tmp_path, meta):
    private = tmp_path / 'private.png'
    private.write_bytes(png())
    (path,) = upload(client, png()).json()
    link = Path(path).with_name('link.png')
    link.symlink_to(private)
    fifo = Path(path).with_name('fifo.png')
    os.mkfifo(fifo)
    for bad in (
        '/dev/zero',
        '/dev/../dev/zero',
        '/proc/self/environ',
        '/etc/passwd',
        private,
        link,
        fifo,
        Path(path).parent,
        Path(path).parent / '../../../etc/passwd',
        'http://127.0.0.1/a.png',
        'a\0b',
        '',
        'x' * 10_000,
    ):
        answer = ask(client, submit, 'Hello', [file(bad, meta)])
        assert answer.status_code == 400, bad
        assert 'upload it again' in answer.json()['detail']
    for bad in (None, 7, ['/dev/zero'], {'path': '/dev/zero'}):
        answer = ask(client, submit, 'Hello', [dict(file('x'), path=bad)])
        assert answer.status_code == 400, bad
    nested: object = file('/dev/zero')
    for _ in range(50):
        nested = [dict(a=nested)]
    assert ask(client, submit, event_data=nested).status_code == 400
    example = file(EXAMPLES / 'nano1.png')
    for good in (file(path), example):
        assert ask(client, submit, 'Hello', [good]).status_code == 200
    link.unlink()
    fifo.unlink()


def test_malformed_body_is_refused(client, submit):
    for body in (
        b'[' * 100_000,
        b'{"data":' * 5000,
        b'[]',
        b'x',
        b'\xff',
        b'{"session_hash": 7}',
        b'{"session_hash": "a/b"}',
        json.dumps({'session_hash': 'a' * 65}).encode(),
    ):
        answer = client.post(JOIN, content=body)
        assert answer.status_code == 400, body[:40]
    assert ask(client, submit, 'x' * 10**6).status_code == 413


def test_unused_routes_of_gradio_are_not_served(client):
    for method, path in (
        ('POST', '/gradio_api/run/predict'),
        ('POST', '/gradio_api/api/predict'),
        ('POST', '/gradio_api/call/predict'),
        ('POST', '/gradio_api/process_recording'),
        ('POST', '/gradio_api/component_server'),
        ('POST', '/gradio_api/vibe-edit/'),
        ('GET', '/gradio_api/proxy=http://127.0.0.1:1/'),
        ('GET', '/gradio_api/file=http://127.0.0.1:1/'),
        ('GET', '/gradio_api/file=/etc/passwd'),
        ('GET', '/gradio_api/file=/dev/zero'),
        ('GET', '/monitoring'),
        ('GET', '/gradio_api/runs'),
        ('GET', '/gradio_api/deep_link'),
        ('DELETE', '/'),
    ):
        assert client.request(method, path).status_code == 404, path
    assert client.get('/').status_code == 200
    assert client.get('/theme.css').status_code == 200


def test_upload_from_another_site_is_refused(client):
    for origin in ('http://evil.example', 'null'):
        assert upload(client, png(), origin=origin).status_code == 403
    assert upload(client, png(), origin='http://testserver').is_success


def test_uploads_of_one_client_are_limited(client):
    heavy = png((150, 150))  # 68 KB of noise; a client may use 100 KB
    assert 60_000 < len(heavy) < 80_000
    (path,) = upload(client, heavy).json()
    answer = upload(client, heavy)
    assert answer.status_code == 507
    assert 'wait for their questions' in answer.json()['detail']
    Path(path).unlink()


def test_one_upload_is_limited(client):
    size = 2 * (20 * 2**20 + 2**16)
    answer = client.post(
        UPLOAD, headers={'content-length': str(size + 1)}, content=b'x'
    )
    assert answer.status_code == 413


@pytest.mark.parametrize(
    'wrong',
    [
        dict(data=[]),
        dict(data=[None, dict(text='a', files=[]), *CONTROLS, 1]),
        dict(data=[None, 'a', *CONTROLS]),
        dict(data=[None, dict(text=7, files=[]), *CONTROLS]),
        dict(data=[None, dict(text='a', files=['x']), *CONTROLS]),
        dict(data=[None, dict(text='\ud800', files=[]), *CONTROLS]),
        dict(data=[None, dict(text='a', files=[]), 'Other', *CONTROLS[1:]]),
        dict(data=[None, dict(text='a', files=[]), *CONTROLS[:-1], 61]),
        dict(data=[None, dict(text='a', files=[]), *CONTROLS[:-1], None]),
        dict(batched=True),
    ],
)
def test_wrong_event_values_are_refused(client, submit, wrong):
    """Gradio would log a traceback for each."""
    assert ask(client, submit, **wrong).status_code == 400


def test_unknown_example_is_refused(client):
    (event,) = (
        each['id']
        for each in client.get('/config').json()['dependencies']
        if each['targets'][0][1] == 'select'
    )

    def choose(index):
        details = dict(index=index, value='Poem')
        return ask(client, event, data=[], event_data=details).status_code

    assert [choose(i) for i in (0, 13)] == [200, 200]
    assert {choose(i) for i in (14, -1, True, '1', None, [0])} == {400}


def test_refused_path_is_not_logged(client, submit, capfd):
    """Gradio logs a traceback for each path that it refuses."""
    ask(client, submit, 'a', [file('/etc/\x1b[31mred\nline')])
    text = ''.join(capfd.readouterr())
    assert '\x1b' not in text and 'Traceback' not in text


def test_forbidden_beam_search_is_not_offered(client):
    components = client.get('/config').json()['components']
    (way,) = (
        part['props']
        for part in components
        if part['props'].get('label') == 'Decoding method'
    )
    assert [choice[0] for choice in way['choices']] == ['Greedy', 'Sampling']


def test_upload_folder_is_private(client):
    (path,) = upload(client, png()).json()
    folder = Path(os.environ['GRADIO_TEMP_DIR'])
    assert Path(path).is_relative_to(folder)
    assert 'minigpt4-page-' in str(folder)
    assert folder.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    'method, path, status',
    [
        ('GET', '/v1/chat/completions', 405),
        ('POST', '/v1/models', 405),
        ('POST', '/v1/completions', 404),
    ],
)
def test_other_methods_and_paths_of_the_api_have_its_errors(
    client, method, path, status
):
    answer = client.request(method, path)
    assert answer.status_code == status
    assert path in answer.json()['error']['message']
