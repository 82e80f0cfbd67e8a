# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The HTTP application of the review page."""

import hashlib
import io
import subprocess
import sys

import pytest

pytest.importorskip('fastapi', reason='needs minigpt4[serve]')
pytest.importorskip('httpx', reason='needs minigpt4[web]')

from PIL import Image
from starlette.testclient import TestClient
from tests.review_ledger import final_text, make_ledger, step_numbers

from minigpt4.curation.ledger import Ledger, Result
from minigpt4.curation.review_queue import ReviewQueue
from minigpt4.serving.review.app import IMAGE_SIDE, review_app

EVIL = '</script><img src=x onerror=alert(1)> <b>bold</b>'
ARABIC = 'سيارة حمراء في شارع واسع.'


@pytest.fixture
def ledger(tmp_path):
    with make_ledger(tmp_path) as opened:
        yield opened


@pytest.fixture
def client(ledger):
    queue = ReviewQueue(ledger, step_numbers(ledger))
    queue.score_objects()
    with TestClient(review_app(queue), 'http://localhost') as client:
        yield client


def item_of(client, reviewer='ann', **query):
    query = dict(reviewer=reviewer, **query)
    return client.get('/api/item', params=query).json()


def decide(client, item, decision='accept', reviewer='ann', **values):
    content = dict(
        image=item['image'],
        reviewed=item['reviewed'],
        reviewer=reviewer,
        decision=decision,
        **values,
    )
    return client.post('/api/review', json=content)


def decisions(ledger):
    return {
        (r.image, r.reviewer): (r.decision, r.text, r.note)
        for r in ledger.reviews.latest()
    }


def test_the_page_loads_nothing_external(client):
    response = client.get('/')
    assert response.status_code == 200
    assert "default-src 'none'" in response.headers['content-security-policy']
    for name in ('page.css', 'page.js', 'server.js'):
        assert name in response.text
        text = client.get(f'/{name}').text
        assert 'http://' not in text and 'https://' not in text
    assert 'http' not in response.text.replace('http-equiv', '')


def test_an_item_has_what_the_page_displays(client):
    content = item_of(client)
    item = content['item']
    assert item['image'] == 4 and item['place'] == 1
    assert item['text'] == final_text(4)
    assert [flag['text'] for flag in item['flags']] == [
        'The repair adds "horse".',
        'The repair adds "two".',
    ]
    assert [stage['step'] for stage in item['stages']] == [
        'describe',
        'continue',
        'repair',
        'rules',
    ]
    assert ['insert', 'red '] in item['stages'][2]['parts']
    assert item['about'] == dict(source='set 4', licence='CC0')
    assert content['upcoming']['image'] == 5
    url = content['upcoming']['url']
    assert url.startswith('image/5?')  # and its digest
    assert client.get(f'/{url}').status_code == 200
    assert content['progress']['total'] == 6


def test_a_decision_is_in_the_file_before_the_response(client, ledger):
    item = item_of(client)['item']
    response = decide(client, item, note=' good ', go='next')
    content = response.json()
    assert response.status_code == 200
    assert content['saved'] == 'accept' and content['before'] is None
    assert content['item']['image'] == 5
    code = (
        'import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('
        '"SELECT decision, note FROM reviews").fetchall())'
    )
    found = subprocess.run(
        [sys.executable, '-c', code, ledger.path],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == "[('accept', 'good')]"


def test_undo_restores_the_decision_before(client, ledger):
    item = item_of(client)['item']
    decide(client, item)
    before = decide(client, item, 'edit', text='New.').json()['before']
    assert before['decision'] == 'accept'
    decide(client, item, before['decision'])
    assert decisions(ledger)[4, 'ann'][0] == 'accept'
    decide(client, item, 'none')
    assert decisions(ledger) == {}
    assert item_of(client)['item']['image'] == 4


def test_two_reviewers_decide_independently(client, ledger):
    item = item_of(client)['item']
    decide(client, item)
    seen = item_of(client, 'ben')['item']
    assert seen['image'] == 4 and seen['own'] is None
    assert seen['others'] == []  # until ben has decided
    content = decide(client, seen, 'reject', 'ben', go='here').json()
    assert content['item']['others'] == [
        dict(reviewer='ann', decision='accept')
    ]
    progress = client.get('/api/progress').json()
    assert progress['disputed'] == 1
    assert progress['agreement'][0]['both'] == 1


@pytest.mark.parametrize(
    'change, status, message',
    [
        (dict(reviewer=''), 400, 'expected a name'),
        (dict(reviewer='a\nb'), 400, 'expected a name'),
        (dict(decision='maybe'), 400, 'expected one of accept'),
        (dict(decision='edit', text=' '), 400, 'is empty'),
        (dict(decision='edit', text='\ud800'), 400, 'half a character'),
        (dict(decision='edit', text='x' * 20_001), 400, '20,001 characters'),
        (dict(note=3), 400, 'the note is a number'),
        (dict(image=99), 404, 'no text under review'),
        (dict(image='4'), 400, 'not the number of an image'),
        (dict(image=2**70), 400, 'not the number of an image'),
        (dict(reviewed='x'), 409, 'has changed'),
        (dict(shown='x'), 400, 'expected one of todo'),
    ],
)
def test_wrong_decisions_are_refused(client, ledger, change, status, message):
    import json

    item = item_of(client)['item']
    content = dict(
        image=item['image'],
        reviewed=item['reviewed'],
        reviewer='ann',
        decision='accept',
    )
    response = client.post(
        '/api/review',
        content=json.dumps(content | change),
        headers={'Content-Type': 'application/json'},
    )
    assert response.status_code == status
    assert message in response.json()['error']['message']
    assert decisions(ledger) == {}


def test_drafts_are_kept_until_the_edit_is_saved(client, ledger):
    item = item_of(client)['item']
    draft = dict(
        image=4, reviewed=item['reviewed'], reviewer='ann', text='A dra'
    )
    assert client.post('/api/draft', json=draft).status_code == 200
    with Ledger(ledger.path) as other:  # as after kill -9
        assert other.reviews.draft(4, item['reviewed'], 'ann')[0] == 'A dra'
    assert item_of(client)['item']['draft']['text'] == 'A dra'
    assert item_of(client, 'ben')['item']['draft'] is None
    decide(client, item)  # without the edit: it stays
    assert item_of(client, image=4)['item']['draft']['text'] == 'A dra'
    decide(client, item, 'edit', text='A draft.')
    assert item_of(client, image=4)['item']['draft'] is None


@pytest.mark.parametrize(
    'headers, status',
    [
        (dict(Host='evil.example'), 403),
        (dict(Origin='https://evil.example'), 403),
        (dict(Origin='null'), 403),
        ({'Content-Type': 'text/plain'}, 415),
        ({}, 200),
        (dict(Origin='http://localhost'), 200),
    ],
)
def test_other_hosts_and_sites_are_refused(client, ledger, headers, status):
    import json

    item = item_of(client)['item']
    content = dict(
        image=4, reviewed=item['reviewed'], reviewer='a', decision='accept'
    )
    response = client.post(
        '/api/review',
        content=json.dumps(content),
        headers={'Content-Type': 'application/json'} | headers,
    )
    assert response.status_code == status
    assert bool(decisions(ledger)) == (status == 200)


def test_large_and_broken_requests_are_refused(client):
    kind = {'Content-Type': 'application/json'}
    for content, status in (
        (b'{', 400),
        (b'[]', 400),
        (b'[' * 100_000, 400),
        (b' ' * 300_000, 413),
    ):
        response = client.post('/api/review', content=content, headers=kind)
        assert response.status_code == status
    assert client.get('/api/item').status_code == 400
    assert client.get('/api/item?reviewer=a&go=x').status_code == 400
    assert client.get('/api/item?reviewer=a&image=x').status_code == 422
    assert client.get('/api/item?reviewer=a&image=99').status_code == 404
    assert client.get('/docs').status_code == 404


def test_images_are_reduced(client, ledger, tmp_path):
    path = tmp_path / 'large.png'
    Image.new('RGB', (5000, 2500)).save(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    ledger.add_images([(digest, str(path), {})])
    response = client.get('/image/7')
    assert response.headers['content-type'] == 'image/jpeg'
    with Image.open(io.BytesIO(response.content)) as image:
        assert image.size == (IMAGE_SIDE, IMAGE_SIDE // 2)


def test_broken_images_do_not_stop_the_review(client, tmp_path):
    Image.new('RGB', (64, 48)).save(tmp_path / 'image1.png')
    (tmp_path / 'image2.png').unlink()
    start = 'This image cannot be displayed: the file '
    for number, message in (
        (1, f'{start}has changed since it was added.'),
        (2, f'{start}is missing.'),
        (99, 'the ledger has no image 99.'),
    ):
        response = client.get(f'/image/{number}')
        assert response.status_code == 404
        assert response.json()['error']['message'] == message
    assert client.get('/image/x').status_code == 422
    assert item_of(client, image=1)['item']['text'] == final_text(1)


def test_html_and_right_to_left_texts_are_data(tmp_path):
    with Ledger(tmp_path / 'ledger') as ledger:
        ledger.add_images([('a', '/<b>.png', {}), ('b', '/\udcff.png', {})])
        step = ledger.add_step('a', 'rules', {})
        ledger.add_results(
            step, [Result(1, 'ok', EVIL, {}), Result(2, 'ok', ARABIC, {})]
        )
        queue = ReviewQueue(ledger, dict(rules=step))
        with TestClient(review_app(queue), 'http://localhost') as client:
            response = client.get('/api/item?reviewer=a')
            assert response.headers['content-type'] == 'application/json'
            assert response.json()['item']['text'] == EVIL
            content = item_of(client, image=2)['item']
            assert content['text'] == ARABIC


def test_a_full_disk_is_reported(client, ledger):
    item = item_of(client)['item']
    list(ledger.select('PRAGMA max_page_count = 1'))  # the file cannot grow
    response = decide(client, item, 'edit', text='word ' * 1500)
    assert response.status_code == 507
    message = response.json()['error']['message']
    assert message.startswith('nothing was stored: ')
    assert 'No space left on device' in message
    assert decisions(ledger) == {}
    list(ledger.select('PRAGMA max_page_count = 1000000'))
    assert decide(client, item).status_code == 200
