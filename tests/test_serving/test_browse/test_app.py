# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
import pytest
from starlette.testclient import TestClient
from tests.data_sets import jpeg, noise

from minigpt4.data_tools.data_items import DataItem, ImageRef
from minigpt4.data_tools.prompt_tokens import PromptTokens
from minigpt4.prompts import Turn
from minigpt4.serving.browse.app import build_app
from minigpt4.serving.browse.record_index import RecordIndex


@pytest.fixture(scope='module')
def client(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data')
    (folder / 'a.jpg').write_bytes(jpeg(noise(1, 60, 40)))
    (folder / 'b.jpg').write_bytes(b'<html>')
    index = RecordIndex(folder / 'index.sqlite')
    good = ImageRef('a.jpg', str(folder / 'a.jpg'))
    bad = ImageRef('b.jpg', str(folder / 'b.jpg'))
    index.fill(
        [
            DataItem('x', '1', (good,), (Turn('', 'a red star'),)),
            DataItem('x', '2', (bad,), (Turn('', 'a dog'),)),
            DataItem('x', '3', error='is a string'),
            DataItem('x', '4', (), (Turn('<ImageHere>?', 'a'),)),
        ]
    )
    index.complete = True
    prompts = PromptTokens('configs/minigpt4/stage2_nano.py')
    app = build_app(index, prompts, 'my data')
    return TestClient(app, base_url='http://127.0.0.1:8100')


def get(client, path, status=200, **options):
    response = client.get(path, **options)
    assert response.status_code == status, response.text
    return response.json()


def test_status_and_lists(client):
    status = get(client, '/api/status')
    assert status['count'] == 4 and status['complete']
    assert status['max_text_length'] == 160
    assert [r['id'] for r in get(client, '/api/records?limit=2')] == ['1', '2']
    assert [r['id'] for r in get(client, '/api/records?query=dog')] == ['2']
    assert get(client, '/api/matches?invalid=true') == dict(count=1)


def test_the_prompt_of_a_record(client):
    record = get(client, '/api/records/1')
    prompt = record['prompt']
    supervised = [t['text'] for t in prompt['tokens'] if t['supervised']]
    assert ''.join(supervised).strip() == 'a red star###'
    assert [t['positions'] for t in prompt['tokens'] if t['id'] is None] == [
        22
    ]
    assert prompt['supervised'] == len(supervised)


def test_records_without_a_prompt(client):
    record = get(client, '/api/records/3')
    assert record['error'] == 'is a string'
    assert record['prompt'] is None
    assert 'image slots' in get(client, '/api/records/4')['prompt_error']


def test_images(client):
    response = client.get('/api/records/1/images/0?size=small')
    assert response.headers['content-type'] == 'image/jpeg'
    assert response.content[:2] == b'\xff\xd8'
    error = get(client, '/api/records/2/images/0', 422)['error']
    assert 'it is an HTML page' in error


@pytest.mark.parametrize(
    ('path', 'status'),
    [
        ('/api/records/0', 404),
        ('/api/records/99', 404),
        ('/api/records/99999999999999999999', 404),
        ('/api/records/x', 422),
        ('/api/records/1/images/1', 404),
        ('/api/records/1/images/-1', 404),
        ('/api/records/1/images/0?size=huge', 404),
        ('/api/records?limit=100000', 422),
        ('/api/records?after=-1', 422),
        ('/api/records?query=' + 'x' * 501, 422),
        ('/docs', 404),
        ('/..%2f..%2fetc/passwd', 404),
    ],
)
def test_wrong_requests(client, path, status):
    assert get(client, path, status)['error']


def test_other_hosts_and_sites_are_refused(client):
    for headers in (
        dict(host='evil.example'),
        dict(origin='http://evil.example'),
    ):
        response = client.get('/api/records/1', headers=headers)
        assert response.status_code == 403
    assert client.get('/', headers=dict(host='localhost:8100')).is_success
    assert client.post('/api/records').status_code == 405


def test_files_of_the_page_and_the_policy(client):
    for path, kind in (
        ('/', 'text/html'),
        ('/page.js', 'text/javascript'),
        ('/page.css', 'text/css'),
    ):
        response = client.get(path)
        assert response.headers['content-type'].startswith(kind)
        policy = response.headers['content-security-policy']
        assert "default-src 'none'" in policy and 'unsafe' not in policy
        assert '://' not in response.text.replace('http://www.w3.org', '')
