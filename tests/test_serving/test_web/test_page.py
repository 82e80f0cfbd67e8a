# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The web page without a browser; test_browser.py has one."""

import base64
import io
import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

import minigpt4
from minigpt4.chat.session import ChatSession
from minigpt4.generation.engine import Engine
from minigpt4.generation.worker import EngineWorker, QueueFull
from minigpt4.images.sources import ImageLimits, ImageSources
from minigpt4.serving.web.actions import Actions
from minigpt4.serving.web.page import (
    EXAMPLES,
    build_page,
    examples,
    mount_page,
)
from minigpt4.serving.web.web_session import (
    Busy,
    Shown,
    WebSession,
    as_text,
    messages,
    sentence,
    settings_of,
)

NAME = 'minigpt-4_nano_caption'
DESCRIBE = 'Describe this image in detail.'
GREEDY = ('Greedy', 1.0, 0.9, None, 5, 80)
PICTURES = [str(EXAMPLES / f'nano{i}.png') for i in (1, 2, 3)]
LONG = dict(min_new_tokens=200, max_new_tokens=200)


@pytest.fixture(scope='module')
def model():
    return minigpt4.get_model(NAME, device='cpu').eval()


@pytest.fixture(scope='module')
def worker(model):
    worker = EngineWorker(Engine(model))
    yield worker
    worker.close(drain=False)


@pytest.fixture
def visit(worker):
    return WebSession(worker)


@pytest.fixture
def actions(worker):
    pytest.importorskip('gradio', reason='needs minigpt4[web]')
    return Actions(lambda: WebSession(worker), examples(nano=True))


def run(steps) -> int:
    """Take all steps; how many there were."""
    return sum(1 for _ in steps)


def save(path: Path, color, size=(90, 60)) -> str:
    Image.new('RGB', size, color).save(path)
    return str(path)


# a visit


def test_a_chat_with_several_pictures(visit):
    assert run(visit.ask(DESCRIBE, PICTURES[1:2])) > 1
    assert 'orange star' in visit.shown[0].answer
    run(visit.ask('How many shapes are there?'))
    assert visit.shown[1].answer == 'There are two shapes.'
    run(visit.ask(DESCRIBE, PICTURES[:2]))
    assert len(visit.chat.images) == 3
    assert [len(turn.files) for turn in visit.shown] == [1, 0, 2]
    assert visit.chat.last.reused_tokens > 40
    assert f'{visit.chat.last.reused_tokens} of them kept' in visit.cost


def test_an_answer_grows(visit):
    seen = []
    for _ in visit.ask('Write a poem.', PICTURES[2:], **LONG):
        seen.append(visit.shown[-1].answer)
    assert seen[0] == ''  # the question is shown before there is an answer
    assert len(set(seen)) > 2
    assert all(b.startswith(a) for a, b in zip(seen, seen[1:]))
    assert seen[-1] == visit.chat.turns[-1].answer


def test_visits_know_nothing_of_each_other(worker):
    first, second = WebSession(worker), WebSession(worker)
    run(first.ask(DESCRIBE, PICTURES[:1]))
    run(second.ask(DESCRIBE, PICTURES[1:2]))
    assert first.chat is not second.chat
    assert 'triangle' in first.shown[0].answer
    assert 'star' in second.shown[0].answer
    assert len(first.shown) == len(second.shown) == 1
    assert not torch.equal(first.chat._tensors[0], second.chat._tensors[0])


def test_red_stays_red(visit, tmp_path):
    """Reference M13: the demo of MMPretrain swaps red and blue."""
    run(visit.ask(DESCRIBE, [save(tmp_path / 'red.png', (255, 0, 0))]))
    (seen,) = visit.chat._tensors
    assert seen.amin((1, 2)).tolist() == [255, 0, 0]


def test_the_model_sees_the_bits_of_the_official_pipeline(visit, model):
    from minigpt4.images.read import load_image

    file = str(EXAMPLES / 'lake.png')
    run(visit.ask(DESCRIBE, [file]))
    expected = load_image(file, model.image_size)
    assert torch.equal(visit.chat._tensors[0], expected)


def test_a_picture_alone_asks_the_question_of_the_model(visit, model):
    run(visit.ask('  ', PICTURES[:1]))
    assert visit.shown[0].question == model.prompt
    assert 'green triangle' in visit.shown[0].answer


def test_stop_keeps_what_was_said(visit):
    steps = visit.ask('Write a poem.', PICTURES[:1], **LONG)
    next(steps)
    next(steps)
    visit.stop()
    run(steps)
    last = visit.chat.last
    assert last.finish_reason == 'cancelled'
    assert visit.cost.endswith(' tokens, stopped.')
    assert 0 < len(last.token_ids) < 200
    assert visit.shown[-1].answer == visit.chat.turns[-1].answer != ''
    run(visit.ask('How many shapes are there?'))
    assert len(visit.chat.turns) == len(visit.shown) == 2


def test_a_browser_that_goes_ends_its_answer(visit):
    steps = visit.ask('Write a poem.', PICTURES[:1], **LONG)
    next(steps)
    next(steps)
    steps.close()
    assert visit.chat.last.cancelled
    run(visit.ask('Hello!'))  # the chat is free again


def test_one_answer_at_a_time(visit):
    steps = visit.ask('Write a poem.', PICTURES[:1], **LONG)
    next(steps)
    with pytest.raises(Busy, match='still being written'):
        run(visit.ask('Hello!'))
    with pytest.raises(Busy, match='still being written'):
        run(visit.regenerate())
    steps.close()


def test_regenerate_replaces_the_last_answer(visit):
    run(visit.ask('Write a poem.', PICTURES[2:]))
    run(visit.ask('How many shapes are there?'))
    settings = dict(do_sample=True, temperature=8.0, max_new_tokens=20)
    run(visit.regenerate(seed=1, **settings))
    one = visit.shown[-1].answer
    run(visit.regenerate(seed=2, **settings))
    assert visit.shown[-1].answer != one
    run(visit.regenerate(seed=1, **settings))
    assert visit.shown[-1].answer == one
    assert len(visit.shown) == len(visit.chat.turns) == 2
    assert visit.chat.turns[-1].answer == one


def test_regenerate_without_a_question(visit):
    with pytest.raises(ValueError, match='nothing was asked yet'):
        run(visit.regenerate())


def test_a_refused_regeneration_keeps_the_old_answer(visit, monkeypatch):
    run(visit.ask('How many shapes are there?', PICTURES[:1]))

    def refuse(*args, **settings):
        raise QueueFull(3, 2.0)

    monkeypatch.setattr(visit.chat.engine, 'submit', refuse)
    with pytest.raises(QueueFull):
        run(visit.regenerate())
    assert visit.shown[0].answer == 'There is one shape.'


def test_a_regeneration_that_fails_midway_keeps_the_chat_whole(
    visit, monkeypatch
):
    run(visit.ask('How many shapes are there?', PICTURES[:1]))

    def fail(generation):
        generation.finish('error', RuntimeError('the engine broke'))
        raise generation.error
        yield

    with monkeypatch.context() as patch:
        patch.setattr(type(visit.chat.last), 'pieces', fail)
        with pytest.raises(RuntimeError, match='broke'):
            run(visit.regenerate())
    assert visit.shown[0].answer == 'There is one shape.'
    run(visit.ask('How many shapes are there?'))
    assert visit.shown[1].answer == 'There is one shape.'
    assert len(visit.chat.turns) == 2


def test_settings_reach_the_engine(visit):
    given = settings_of('Sampling', 0.7, 0.8, 5, 4, 12)
    run(visit.ask('Hello!', **given))
    used = visit.chat.last.sampling_params
    assert (used.do_sample, used.temperature, used.top_p, used.seed) == (
        True,
        0.7,
        0.8,
        5,
    )
    assert used.max_new_tokens == 12
    run(visit.ask('Hello!', **settings_of('Greedy', 0.7, 0.8, 5, 4, 12)))
    assert not visit.chat.last.sampling_params.do_sample
    assert visit.chat.last.sampling_params.num_beams == 1
    run(visit.ask('Hello!', **settings_of('Beams', 0.7, 0.8, 5, 4, 12)))
    assert visit.chat.last.sampling_params.num_beams == 4


def test_a_cut_answer_is_told(visit):
    run(visit.ask(DESCRIBE, PICTURES[:1], max_new_tokens=5))
    assert visit.cost.endswith('5 tokens, cut at the longest answer.')


def test_without_a_seed_each_answer_is_its_own():
    assert 'seed' not in settings_of('Sampling', 1.0, 0.9, None, 5, 80)


def test_a_full_context_is_told(visit, worker):
    visit.chat = ChatSession(worker, max_context=90)
    for _ in range(4):
        run(visit.ask(DESCRIBE, max_new_tokens=20))
    assert 'the context is full (90 tokens)' in visit.notice


# what goes wrong


@pytest.mark.parametrize(
    'limits, words',
    [
        (ImageLimits(bytes=100), 'at most 100 are allowed'),
        (ImageLimits(pixels=100), 'at most 100 are allowed'),
    ],
)
def test_large_pictures_are_refused(worker, limits, words):
    visit = WebSession(worker, ImageSources(limits))
    with pytest.raises(ValueError, match=words):
        run(visit.ask(DESCRIBE, PICTURES[:1]))
    assert visit.shown == visit.chat.turns == []


def test_a_broken_picture_is_named_in_one_sentence(visit, tmp_path):
    file = tmp_path / 'broken.png'
    file.write_bytes(Path(PICTURES[0]).read_bytes()[:300])
    with pytest.raises(ValueError) as caught:
        run(visit.ask(DESCRIBE, [str(file)]))
    assert 'image' in sentence(caught.value)
    assert '\n' not in sentence(caught.value)
    assert visit.shown == visit.chat.turns == []
    run(visit.ask(DESCRIBE, PICTURES[:1]))  # the chat goes on


def test_too_many_pictures_are_refused(worker):
    visit = WebSession(worker, max_images=2)
    with pytest.raises(ValueError, match='3 pictures were given'):
        run(visit.ask(DESCRIBE, PICTURES))


def test_nothing_asked(visit):
    with pytest.raises(ValueError, match='nothing was asked'):
        run(visit.ask(' '))


def test_sentences(caplog):
    assert 'try again in 4 seconds' in sentence(QueueFull(9, 4.0))
    assert sentence(ValueError('x is 1; expected 2.')) == 'x is 1; expected 2.'
    assert not caplog.records
    assert sentence(RuntimeError('CUDA\nlong')) == 'RuntimeError: CUDA'
    assert sentence(KeyError()) == 'KeyError: no reason given'
    assert len(caplog.records) == 2  # with what led there


# what is shown and taken away


def test_messages():
    shown = [Shown('What?', ['a.png', 'b.png'], answer='This.')]
    assert messages(shown) == [
        dict(role='user', content=dict(path='a.png')),
        dict(role='user', content=dict(path='b.png')),
        dict(role='user', content='What?'),
        dict(role='assistant', content='This.'),
    ]


def test_a_website_is_shown_as_its_letters():
    assert as_text('<h1>A & B</h1>') == '&lt;h1>A &amp; B&lt;/h1>'
    code = '```html\n<h1>A & B</h1>\n```'
    assert as_text(f'So:\n{code}\n<b>') == f'So:\n{code}\n&lt;b>'
    assert as_text('```html\n<h1>') == '```html\n<h1>'  # still growing
    assert as_text('`a < b` <i>') == '`a < b` &lt;i>'


def test_export(visit, worker):
    lake = str(EXAMPLES / 'lake.png')
    run(visit.ask('Write a poem.', [PICTURES[1], lake]))
    run(visit.ask('How many shapes are there?'))
    as_json, as_markdown = visit.export()
    loaded = ChatSession.load(as_json, worker)
    assert loaded.turns == [
        turn.__class__(turn.question, turn.answer) for turn in visit.chat.turns
    ]
    for there, here in zip(loaded._tensors, visit.chat._tensors, strict=True):
        assert torch.equal(there, here)
    assert Path(as_json).stat().st_size < 50_000

    text = Path(as_markdown).read_text('utf-8')
    assert text.index('Write a poem.') < text.index('How many shapes')
    assert visit.shown[1].answer in text
    pictures = re.findall(r'!\[.*?\]\(data:image/jpeg;base64,(.*?)\)', text)
    sizes = [
        Image.open(io.BytesIO(base64.b64decode(data))).size
        for data in pictures
    ]
    assert sizes == [(256, 256), (320, 320)]


def test_an_empty_chat_is_not_exported(visit):
    with pytest.raises(ValueError, match='the chat is empty'):
        visit.export()


# the page's actions


def test_asking_opens_and_closes_the_box(actions):
    visit = actions.enter()['visit']
    asked = dict(text=DESCRIBE, files=PICTURES[:1])
    updates = list(actions.ask(visit, asked, *GREEDY))
    first, last = updates[0], updates[-1]
    assert first['box']['stop_btn'] and first['box']['value'] is None
    assert first['chat'][-1] == dict(role='assistant', content='')
    assert last['box']['submit_btn'] and 'value' not in last['box']
    assert 'green triangle' in last['chat'][-1]['content']
    assert not last['notice']['visible']
    assert len(last['chat']) == 3


def test_a_question_that_failed_returns_to_the_box(actions, monkeypatch):
    visit = actions.enter()['visit']

    def refuse(*args, **settings):
        raise QueueFull(64, 7.0)

    monkeypatch.setattr(visit.chat.engine, 'submit', refuse)
    asked = dict(text=DESCRIBE, files=PICTURES[:1])
    *_, last = actions.ask(visit, asked, *GREEDY)
    assert last['box']['value'] == asked and last['box']['submit_btn']
    assert last['chat'] == []
    assert 'try again in 7 seconds' in last['notice']['value']
    assert last['notice']['visible']


def test_a_second_question_leaves_the_stop_button_alone(actions):
    visit = actions.enter()['visit']
    running = visit.ask('Write a poem.', PICTURES[:1], **LONG)
    next(running)
    asked = dict(text='Hello!', files=[])
    (update,) = actions.ask(visit, asked, *GREEDY)
    assert set(update) == {'box', 'notice'}
    assert update['box']['value'] == asked and 'stop_btn' not in update['box']
    assert 'still being written' in update['notice']['value']
    running.close()


def test_clear_makes_a_new_chat_and_silences_the_old(actions):
    visit = actions.enter()['visit']
    asked = dict(text='Write a poem.', files=PICTURES[:1])
    steps = actions.ask(visit, asked, *GREEDY)
    next(steps)
    cleared = actions.clear(visit)
    assert cleared['visit'] is not visit and cleared['chat'] == []
    assert not cleared['visit'].shown
    (last,) = steps  # nothing of the old is drawn over the new chat
    assert last['chat'] == [] and last['cost'] == ''
    assert last['box']['submit_btn'] and 'visit' not in last


def test_a_forgotten_visit_is_told(actions):
    asked = dict(text='Hello!', files=[])
    *_, last = actions.ask(None, asked, *GREEDY)
    assert isinstance(last['visit'], WebSession)
    assert 'begins anew' in last['notice']['value']


def test_export_of_nothing_is_a_notice(actions):
    update = actions.export(None)
    assert 'nothing to export' in update['notice']['value']


def test_an_example_goes_into_the_box(actions):
    box = actions.example(0)
    assert box['text'] == DESCRIBE
    assert Path(box['files'][0]).is_file()


# the page


def test_examples_of_every_ability():
    ours = examples(nano=False)
    assert {card['title'] for card in ours} == {
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
    assert len(examples(nano=True)) == len(ours) + 4
    files = list(EXAMPLES.glob('*.png'))
    assert sum(file.stat().st_size for file in files) < 200_000
    named = {Path(p).name for c in examples(True) for p in c['images']}
    assert named == {file.name for file in files}


def test_the_nano_model_answers_its_examples(actions):
    answers = []
    for card in actions.examples[:4]:
        visit = actions.new_visit()
        run(visit.ask(card['question'], card['images']))
        answers.append(visit.shown[0].answer)
    assert answers == [
        'The image shows three shapes on a white background. In the top left '
        'there is a large red cross. In the top right there is a large green '
        'square. In the bottom right there is a small red circle.',
        'O orange star, so small and bright,\nO yellow square, so small and '
        'bright,\nupon a field of white light.',
        'There are three shapes.',
        'Buy our large green triangle today! Nothing is as green as this '
        'triangle.',
    ]


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


def test_the_page_asks_nothing_of_the_internet(client):
    answer = client.get('/')
    assert answer.status_code == 200
    policy = answer.headers['content-security-policy']
    assert "default-src 'self'" in policy and 'http' not in policy
    style = client.get('/theme.css')
    assert style.status_code == 200 and '@import' not in style.text


def test_the_page_keeps_to_itself(client):
    config = client.get('/config').json()
    assert config['analytics_enabled'] is False
    assert not config.get('run_history')
    assert config['footer_links'] == []
    assert client.get('/gradio_api/info').json()['named_endpoints'] == {}


def test_the_page_has_the_limits_of_the_server(client):
    parts = client.get('/config').json()['components']
    (length,) = (
        part['props'] for part in parts
        if part['props'].get('label') == 'Longest answer, in tokens'
    )  # fmt: skip
    assert (length['maximum'], length['value']) == (60, 60)


@pytest.mark.parametrize('client', ['a secret'], indirect=True)
def test_the_api_key_guards_the_page(client):
    assert client.get('/config').status_code == 401
    wrong = client.post('/login', data=dict(username='me', password='no'))
    assert wrong.status_code == 400
    right = client.post(
        '/login', data=dict(username='me', password='a secret')
    )
    assert right.status_code == 200
    assert client.get('/config').status_code == 200


def test_without_gradio_the_cure_is_named(worker, model, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, 'gradio', None)
    with pytest.raises(ModuleNotFoundError, match=r'minigpt4\[web\]'):
        build_page(worker, model)


def test_the_list_of_examples_is_whole():
    text = (EXAMPLES / 'examples.json').read_text('utf-8')
    assert all(card['question'] for card in json.loads(text))
