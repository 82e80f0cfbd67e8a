# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""What the web page lets reach Gradio, and what becomes of uploads."""

import io
import json
import os
import re
import time
from pathlib import Path

import pytest
from PIL import Image

import minigpt4
from minigpt4.generation.engine import Engine
from minigpt4.generation.worker import EngineWorker
from minigpt4.serving.http.requests import RequestLimits
from minigpt4.serving.web import uploads as uploads_module
from minigpt4.serving.web.actions import Actions
from minigpt4.serving.web.page import EXAMPLES, examples, mount_page
from minigpt4.serving.web.uploads import UploadError, Uploads
from minigpt4.serving.web.web_session import WebSession, settings_of

pytest.importorskip('gradio', reason='needs minigpt4[web]')

NAME = 'minigpt-4_nano_caption'
UPLOAD = '/gradio_api/upload'
JOIN = '/gradio_api/queue/join'
CONTROLS = ['Greedy', 1.0, 0.9, None, 5, 20]


@pytest.fixture(scope='module')
def model():
    return minigpt4.get_model(NAME, device='cpu').eval()


@pytest.fixture(scope='module')
def worker(model):
    worker = EngineWorker(Engine(model))
    yield worker
    worker.close(drain=False)


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
    """The number of the function that answers a question."""
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
    return client.post(JOIN, json={**body, **extra})


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
def test_an_event_that_the_page_does_not_have_is_refused(
    client, submit, wrong
):
    answer = ask(client, submit, **wrong)
    assert answer.status_code == 400
    assert next(iter(wrong)) in answer.json()['detail']


@pytest.mark.timeout(60)  # reading /dev/zero never ends
@pytest.mark.parametrize('meta', [True, False])
def test_a_question_may_only_name_uploaded_files(
    client, submit, tmp_path, meta
):
    private = tmp_path / 'private.png'
    private.write_bytes(png())
    (path,) = upload(client, png()).json()
    link = Path(path).with_name('link.png')
    link.symlink_to(private)
    fifo = Path(path).with_name('fifo.png')
    os.mkfifo(fifo)
    began = time.monotonic()
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
    assert time.monotonic() - began < 5
    example = file(EXAMPLES / 'nano1.png')
    for good in (file(path), example):
        assert ask(client, submit, 'Hello', [good]).status_code == 200
    link.unlink()
    fifo.unlink()


def test_a_question_that_is_no_question_is_refused(client, submit):
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


def test_routes_that_the_page_does_not_use_are_not_served(client):
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


def test_a_page_of_another_site_may_not_upload(client):
    for origin in ('http://evil.example', 'null'):
        assert upload(client, png(), origin=origin).status_code == 403
    assert upload(client, png(), origin='http://testserver').is_success


def test_uploads_are_limited_in_all_and_for_one_client(client):
    heavy = png((150, 150))  # 68 KB of noise; a client may have 100 KB
    assert 60_000 < len(heavy) < 80_000
    (path,) = upload(client, heavy).json()
    answer = upload(client, heavy)
    assert answer.status_code == 507
    assert 'wait for their questions' in answer.json()['detail']
    Path(path).unlink()


def test_one_upload_has_a_limit(client):
    size = 2 * (20 * 2**20 + 2**16)
    answer = client.post(
        UPLOAD, headers={'content-length': str(size + 1)}, content=b'x'
    )
    assert answer.status_code == 413


def test_a_queue_that_is_asked_shows_no_file_of_the_server(
    client, submit, capfd
):
    """A path that Gradio refuses itself writes tracebacks to the log."""
    ask(client, submit, 'a', [file('/etc/\x1b[31mred\nline')])
    said = ''.join(capfd.readouterr())
    assert '\x1b' not in said and 'Traceback' not in said


# the count of uploads


@pytest.fixture
def uploads(tmp_path):
    folder = tmp_path / 'uploads'
    folder.mkdir()
    return Uploads(folder, 4000, 1000, (EXAMPLES,))


def put(uploads, name: str, size: int = 10) -> str:
    path = uploads.folder / name / 'a.png'
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b'x' * size)
    return str(path)


def test_a_client_has_a_quarter_of_the_room(uploads):
    uploads.add('a', [put(uploads, '1', 900)])
    with pytest.raises(UploadError, match='wait for their questions'):
        with uploads.arriving('a', 101):
            pass
    with uploads.arriving('b', 1000):
        with pytest.raises(UploadError):
            with uploads.arriving('b', 1):
                pass
        with uploads.arriving('c', 1000), uploads.arriving('d', 1000):
            with pytest.raises(UploadError):
                with uploads.arriving('e', 200):
                    pass
    with uploads.arriving('b', 1000):
        pass


def test_what_is_used_or_old_is_removed(uploads, monkeypatch):
    used, old, new = (put(uploads, name) for name in '123')
    partial = uploads.folder / 'tmp123'
    partial.write_bytes(b'x')
    uploads.add('a', [used, old])
    uploads.remove(used)
    assert not Path(used).exists()
    now = time.time()
    monkeypatch.setattr(
        uploads_module.time,
        'time',
        lambda: now + uploads_module.UNUSED_SECONDS + 60,
    )
    uploads.add('a', [new])
    uploads.remove_unused()
    assert not Path(old).exists() and not partial.exists()
    assert Path(new).exists()


def test_files_of_the_program_are_not_removed(roomy):
    example = EXAMPLES / 'nano1.png'
    assert roomy.check(str(example)) == example.resolve()
    roomy.remove(example)
    roomy.remove('/etc/hostname')
    assert example.exists()


def test_a_file_that_is_too_large_is_refused(uploads):
    with pytest.raises(UploadError, match='at most 1,000'):
        uploads.check(put(uploads, '1', 1001))


# a visit with uploads


def picture(uploads, name: str) -> str:
    path = put(uploads, name)
    Path(path).write_bytes((EXAMPLES / 'nano2.png').read_bytes()[:])
    return path


@pytest.fixture
def roomy(tmp_path):
    folder = tmp_path / 'roomy'
    folder.mkdir()
    return Uploads(folder, 2**30, 2**24, (EXAMPLES,))


def test_an_uploaded_picture_is_removed_when_its_question_is_answered(
    worker, roomy
):
    visit = WebSession(worker, uploads=roomy)
    path = picture(roomy, '1')
    for _ in visit.ask('How many shapes are there?', [path]):
        shown = visit.shown[0].files[0]
        assert Path(shown).is_file() and shown != path
    assert visit.shown[0].answer == 'There are two shapes.'
    assert not Path(path).exists()
    with Image.open(shown) as small:
        assert max(small.size) <= 384
    for _ in visit.regenerate():
        pass
    assert visit.shown[0].answer == 'There are two shapes.'
    visit.end()
    assert not Path(shown).exists()


def test_the_picture_of_a_question_that_failed_stays(
    worker, roomy, monkeypatch
):
    visit = WebSession(worker, uploads=roomy)
    path = picture(roomy, '1')

    def refuse(*args, **settings):
        raise ValueError('no')

    with monkeypatch.context() as patch:
        patch.setattr(visit.chat.engine, 'submit', refuse)
        with pytest.raises(ValueError, match='no'):
            list(visit.ask('Hello', [path]))
    assert Path(path).is_file()
    list(visit.ask('Hello', [path]))
    assert not Path(path).exists()


def test_a_visit_reads_uploads_alone(worker, roomy, tmp_path):
    private = tmp_path / 'private.png'
    private.write_bytes(png())
    visit = WebSession(worker, uploads=roomy)
    with pytest.raises(ValueError, match='upload it again'):
        list(visit.ask('Hello', [str(private)]))


def test_the_page_has_the_servers_limits(worker):
    limits = RequestLimits(beams=2, max_tokens=30, text=50)
    actions = Actions(
        lambda: WebSession(worker, max_text=limits.text),
        examples(True),
        limits,
    )

    def notice(text='Hello', **changes) -> str:
        names = ('way', 'temperature', 'top_p', 'seed', 'beams', 'length')
        controls = {**dict(zip(names, CONTROLS)), **changes}
        asked = dict(text=text, files=[])
        *_, last = actions.ask(actions.new_visit(), asked, *controls.values())
        return last['notice']['value'] if last['notice']['visible'] else ''

    assert notice() == ''
    assert notice(way='Beams', beams=2) == ''
    assert 'from 1 to 2' in notice(way='Beams', beams=3)
    assert 'from 1 to 30' in notice(length=31)
    assert 'at most 50' in notice('x' * 51)
    for bad in (
        dict(way='Other'),
        dict(way=['Greedy']),
        dict(length=None),
        dict(length='9'),
        dict(length=float('nan')),
        dict(way='Sampling', temperature=-1),
        dict(way='Sampling', top_p=0),
        dict(way='Sampling', seed=2**70),
        dict(way='Sampling', seed='x'),
        dict(way='Beams', beams=True),
    ):
        said = notice(**bad)
        assert 'xpected' in said and 'Error' not in said, bad


def test_beams_that_the_server_forbids_are_not_offered(client):
    parts = client.get('/config').json()['components']
    (way,) = (
        part['props']
        for part in parts
        if part['props'].get('label') == 'How words are chosen'
    )
    assert [choice[0] for choice in way['choices']] == ['Greedy', 'Sampling']
    with pytest.raises(ValueError, match='from 1 to 1'):
        settings_of('Beams', 1, 1, None, 2, 9, limits=RequestLimits())


def test_an_answer_of_the_page_ends_in_time(worker, monkeypatch):
    visit = WebSession(worker, max_seconds=0.2)
    step = worker.engine.step
    monkeypatch.setattr(
        worker.engine, 'step', lambda: time.sleep(0.05) or step()
    )
    list(visit.ask('Write a poem.', [str(EXAMPLES / 'nano2.png')]))
    assert visit.cost.endswith('stopped.')


def test_uploads_of_other_users_of_the_machine_are_elsewhere(client):
    (path,) = upload(client, png()).json()
    folder = Path(os.environ['GRADIO_TEMP_DIR'])
    assert Path(path).is_relative_to(folder)
    assert re.search('minigpt4-page-', str(folder))
    assert folder.stat().st_mode & 0o077 == 0
