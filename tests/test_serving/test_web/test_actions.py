# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The actions of the page and their updates."""

import threading
from pathlib import Path

import pytest

from minigpt4.generation.worker import QueueFull
from minigpt4.serving.http.parse_request import RequestLimits
from minigpt4.serving.web import web_session
from minigpt4.serving.web.actions import Actions
from minigpt4.serving.web.example_list import EXAMPLES, load_examples
from minigpt4.serving.web.web_session import WebSession

pytest.importorskip('gradio', reason='needs minigpt4[web]')

DESCRIBE = 'Describe this image in detail.'
GREEDY = ('Greedy', 1.0, 0.9, None, 5, 80)
IMAGES = [str(EXAMPLES / f'nano{i}.png') for i in (1, 2, 3)]
LONG = dict(min_new_tokens=200, max_new_tokens=200)


@pytest.fixture
def actions(worker):
    pytest.importorskip('gradio', reason='needs minigpt4[web]')
    return Actions(lambda: WebSession(worker), load_examples(nano=True))


def test_question_box_while_an_answer_is_generated(actions):
    session = actions.open_page()['session']
    message = dict(text=DESCRIBE, files=IMAGES[:1])
    updates = list(actions.ask(session, message, *GREEDY))
    first, last = updates[0], updates[-1]
    assert first['box']['stop_btn'] and first['box']['value'] is None
    assert first['chat'][-1] == dict(role='assistant', content='')
    assert last['box']['submit_btn'] and 'value' not in last['box']
    assert 'green triangle' in last['chat'][-1]['content']
    assert not last['notice']['visible']
    assert len(last['chat']) == 3


def test_failed_question_returns_to_the_box(actions, monkeypatch):
    session = actions.open_page()['session']

    def refuse(*args, **settings):
        raise QueueFull(64, 7.0)

    monkeypatch.setattr(session.chat.engine, 'submit', refuse)
    message = dict(text=DESCRIBE, files=IMAGES[:1])
    *_, last = actions.ask(session, message, *GREEDY)
    assert last['box']['value'] == message and last['box']['submit_btn']
    assert last['chat'] == []
    assert 'try again in 7 seconds' in last['notice']['value']
    assert last['notice']['visible']


def test_second_question_keeps_the_stop_button(actions):
    session = actions.open_page()['session']
    running = session.ask('Write a poem.', IMAGES[:1], **LONG)
    next(running)
    message = dict(text='Hello!', files=[])
    (update,) = actions.ask(session, message, *GREEDY)
    assert set(update) == {'box', 'notice'}
    assert (
        update['box']['value'] == message and 'stop_btn' not in update['box']
    )
    assert 'still being written' in update['notice']['value']
    # sent twice, the question itself does not return
    message = dict(text=' Write a poem. ', files=IMAGES[:1])
    (update,) = actions.ask(session, message, *GREEDY)
    assert 'value' not in update['box']
    running.close()


def test_clear_starts_a_new_chat_and_stops_the_old_one(actions):
    session = actions.open_page()['session']
    message = dict(text='Write a poem.', files=IMAGES[:1])
    steps = actions.ask(session, message, *GREEDY)
    next(steps)
    cleared = actions.clear(session)
    assert cleared['session'] is not session and cleared['chat'] == []
    assert not cleared['session'].turns
    (last,) = steps  # no update of the old chat follows
    assert last['chat'] == [] and last['usage'] == ''
    assert last['box']['submit_btn'] and 'session' not in last


@pytest.mark.parametrize('num_clears', [1, 2])
def test_new_answer_begins_after_the_end_of_a_cleared_one(
    actions, num_clears, monkeypatch
):
    monkeypatch.setattr(web_session, '_END_SECONDS', 600)
    old = actions.ask(
        session := actions.open_page()['session'],
        dict(text='Write a poem.', files=IMAGES[:1]),
        *GREEDY,
    )
    next(old)
    for _ in range(num_clears):
        session = actions.clear(session)['session']
    order = []

    def ask():
        message = dict(text='Hello!', files=[])
        for update in actions.ask(session, message, *GREEDY):
            order.append(('new', update))

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join(1.0)
    assert thread.is_alive() and not order
    order += [('old', update) for update in old]
    thread.join(60.0)
    assert not thread.is_alive()
    names = [name for name, _ in order]
    assert names == ['old'] + ['new'] * (len(names) - 1) and len(names) > 2
    # the update of the old answer may be drawn once more after the first new
    # one, so each shows the stop button
    assert all(update['box']['stop_btn'] for _, update in order[1:-1])
    assert order[-1][1]['chat'][-1]['content'] == 'Hello! Show me an image.'


def test_answer_of_an_interrupted_connection_delays_the_next(
    actions, monkeypatch
):
    monkeypatch.setattr(web_session, '_END_SECONDS', 0.2)
    session = actions.open_page()['session']
    message = dict(text='Write a poem.', files=IMAGES[:1])
    suspended = actions.ask(session, message, *GREEDY)
    next(suspended)
    session = actions.clear(session)['session']
    message = dict(text='Hello!', files=[])
    *_, last = actions.ask(session, message, *GREEDY)
    assert last['chat'][-1]['content'] == 'Hello! Show me an image.'
    suspended.close()


def test_expired_session_is_reported(actions):
    message = dict(text='Hello!', files=[])
    *_, last = actions.ask(None, message, *GREEDY)
    assert isinstance(last['session'], WebSession)
    assert 'this is a new chat' in last['notice']['value']


def test_expired_session_that_is_cleared_is_not_stored(actions):
    message = dict(text='Write a poem.', files=IMAGES[:1])
    steps = actions.ask(None, message, *GREEDY)
    actions.clear(next(steps)['session'])
    (last,) = steps
    assert 'session' not in last and not last['notice']['visible']


def test_error_of_a_cleared_chat_is_not_displayed(actions, monkeypatch):
    session = actions.open_page()['session']

    def fail(*args, **settings):
        actions.clear(session)
        raise QueueFull(64, 7.0)

    monkeypatch.setattr(session.chat, 'ask', fail)
    message = dict(text=DESCRIBE, files=IMAGES[:1])
    *_, last = actions.ask(session, message, *GREEDY)
    assert last['chat'] == [] and not last['notice']['visible']
    assert last['box']['submit_btn'] and 'value' not in last['box']


def test_export_of_an_empty_chat_is_a_notice(actions):
    update = actions.export(None)
    assert 'nothing to export' in update['notice']['value']


def test_example_fills_the_box(actions):
    box = actions.choose_example(0)
    assert box['text'] == DESCRIBE
    assert Path(box['files'][0]).is_file()


def test_nano_model_answers_its_examples(actions):
    answers = []
    for card in actions.examples[:4]:
        session = actions.new_session()
        list(session.ask(card['question'], card['images']))
        answers.append(session.turns[0].answer)
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


def test_wrong_values_are_a_notice(worker):
    limits = RequestLimits(beams=2, max_tokens=30, text=50)
    actions = Actions(
        lambda: WebSession(worker, max_text=limits.text),
        load_examples(True),
        limits,
    )

    def notice(text, method='Greedy', beams=2, length=20) -> str:
        message = dict(text=text, files=[])
        controls = (method, 1.0, 0.9, None, beams, length)
        *_, last = actions.ask(actions.new_session(), message, *controls)
        return last['notice']['value'] if last['notice']['visible'] else ''

    assert notice('Hello') == ''
    assert notice('Hello', 'Beam search', beams=2) == ''
    assert 'from 1 to 2' in notice('Hello', 'Beam search', beams=3)
    assert 'from 1 to 30' in notice('Hello', length=31)
    assert 'at most 50' in notice('x' * 51)
