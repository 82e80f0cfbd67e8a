# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The page as Gradio serves it, without a browser."""

import json
import sys
from pathlib import Path

import pytest

from minigpt4.serving.web.example_list import (
    EXAMPLES,
    example_hint,
    load_examples,
)
from minigpt4.serving.web.page import build_page, mount_page

NAME = 'minigpt-4_nano_caption'


def test_examples_cover_every_ability():
    cards = load_examples(nano=False)
    assert {card['title'] for card in cards} == {
        'Describe',
        'Meme',
        'Website',
        'Recipe',
        'Advertisement',
        'Poem',
        'Story',
        'Facts',
        'Problem and fix',
        'Plant',
    }
    assert len(load_examples(nano=True)) == len(cards) + 4
    files = list(EXAMPLES.glob('*.png'))
    assert sum(file.stat().st_size for file in files) < 200_000
    named = {Path(p).name for c in load_examples(True) for p in c['images']}
    assert named == {file.name for file in files}


def test_hint_is_that_of_the_model():
    assert 'coloured shapes' in example_hint(NAME)
    assert 'photographs' in example_hint('minigpt-4_small_caption')
    assert example_hint('minigpt-4_vicuna-7b_caption') == ''
    assert example_hint('minigpt-4_smollm2-135m_caption') == ''


def test_page_of_the_small_model(worker, model):
    pytest.importorskip('gradio', reason='needs minigpt4[web]')
    from starlette.applications import Starlette
    from starlette.testclient import TestClient

    app = Starlette()
    mount_page(app, worker, model, 'minigpt-4_small_caption')
    config = TestClient(app).get('/config').text
    assert 'minigpt-4_small_caption' in config
    assert 'describes photographs' in config
    assert 'coloured shapes' not in config and 'nano1.png' not in config


@pytest.fixture
def client(worker, model, request):
    """A client of a server with the page."""
    pytest.importorskip('gradio', reason='needs minigpt4[web]')
    from starlette.applications import Starlette
    from starlette.testclient import TestClient

    app = Starlette()
    key = getattr(request, 'param', None)
    mount_page(app, worker, model, NAME, key, max_new_tokens=60)
    return TestClient(app)


def test_page_loads_nothing_from_the_internet(client):
    response = client.get('/')
    assert response.status_code == 200
    policy = response.headers['content-security-policy']
    assert "default-src 'self'" in policy and 'http' not in policy
    style = client.get('/theme.css')
    assert style.status_code == 200 and '@import' not in style.text


def test_page_sends_no_statistics(client):
    config = client.get('/config').json()
    assert config['analytics_enabled'] is False
    assert not config.get('run_history')
    assert config['footer_links'] == []
    assert client.get('/gradio_api/info').json()['named_endpoints'] == {}


def test_page_has_the_limits_of_the_server(client):
    components = client.get('/config').json()['components']
    (length,) = (
        each['props'] for each in components
        if each['props'].get('label') == 'Maximum length in tokens'
    )  # fmt: skip
    assert (length['maximum'], length['value']) == (60, 60)


@pytest.mark.parametrize('client', ['a secret'], indirect=True)
def test_api_key_is_the_password(client):
    assert client.get('/config').status_code == 401
    wrong = client.post('/login', data=dict(username='me', password='no'))
    assert wrong.status_code == 400
    right = client.post(
        '/login', data=dict(username='me', password='a secret')
    )
    assert right.status_code == 200
    assert client.get('/config').status_code == 200


def test_missing_gradio_names_the_install_command(worker, model, monkeypatch):
    monkeypatch.setitem(sys.modules, 'gradio', None)
    with pytest.raises(ModuleNotFoundError, match=r'minigpt4\[web\]'):
        build_page(worker, model)


def test_every_example_has_a_question():
    text = (EXAMPLES / 'examples.json').read_text('utf-8')
    assert all(card['question'] for card in json.loads(text))
