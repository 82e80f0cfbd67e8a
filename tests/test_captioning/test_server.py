# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 caption --server``: batch work by a server of OpenAI's API."""

import base64
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from PIL import Image
from tests.chat_endpoint import chat_endpoint, completion

from minigpt4.captioning import server
from minigpt4.captioning.server import request_fields
from minigpt4_cli import main as cli

pytest.importorskip('openai', reason='needs openai')
pytestmark = pytest.mark.usefixtures('no_waits')


@pytest.fixture
def no_waits(monkeypatch):
    """Requests are repeated without waiting."""
    monkeypatch.setattr(server, 'WAIT_SECONDS', (0.0, 0.0))


@pytest.fixture
def endpoint(folder):
    with chat_endpoint(lambda message: 'An answer.') as running:
        yield running


def caption(running, *options, images='images', out='out.jsonl'):
    return cli.main(
        ['caption', images, '-o', out, '--server', running.url, *options]
    )


def rows(path='out.jsonl'):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def image_of(message):
    """The type and the bytes of the image of a message."""
    (url,) = [p['image_url']['url'] for p in message if 'image_url' in p]
    kind, _, code = url.partition(',')
    return kind, base64.b64decode(code)


def test_server_of_this_package_gives_the_answers_of_this_process(
    folder, model, loads, capsys
):
    pytest.importorskip('uvicorn', reason='needs uvicorn')
    from tests.chat_server import running

    prompts = ['--prompt', 'Describe this image in detail.']
    prompts += ['--prompt', 'How many <Img><ImageHere></Img> shapes?']
    assert cli.main(['caption', 'images', '-o', 'local.jsonl', *prompts]) == 0
    with running(model) as api:
        assert caption(api, *prompts) == 0
    local = rows('local.jsonl')
    assert rows() == [dict(row, settings={'server': True}) for row in local]
    assert len(rows()) == 6 and rows()[0]['tokens'] > 5
    assert len(loads) == 1
    # the template of a server may differ: no table with answers of both
    assert cli.main(['caption', 'images', '-o', 'out.jsonl', *prompts]) == 1
    assert "settings {'server': True}, now" in capsys.readouterr().err


def test_results_have_the_model_of_the_server(endpoint):
    assert caption(endpoint, '--prompt', 'What is it?', '-q') == 0
    assert [row['image'] for row in rows()] == [
        f'images/{i}.png' for i in range(3)
    ]
    for row in rows():
        assert row['caption'] == 'An answer.' and row['finished']
        assert (row['model'], row['weights'], row['tokens']) == ('m', None, 50)
        assert row['bytes'] == os.path.getsize(row['image'])
    assert {key for key in endpoint.keys} == {'Bearer none'}


def test_image_is_where_the_prompt_has_it(endpoint):
    for prompt, types in (
        ('What is it?', ['image_url', 'text']),
        ('In <Img><ImageHere></Img> is', ['text', 'image_url', 'text']),
        ('<Img><ImageHere></Img>', ['image_url']),
    ):
        del endpoint.messages[:]
        arguments = ['--prompt', prompt, '--overwrite', '-q']
        assert caption(endpoint, *arguments, images='images/0.png') == 0
        (message,) = endpoint.messages
        assert [part['type'] for part in message] == types
        texts = [part['text'] for part in message if 'text' in part]
        assert texts in ([prompt], ['In', 'is'], [])


def test_jpeg_is_sent_unchanged_and_others_as_what_was_read(
    folder, endpoint, scenes
):
    scenes[1][0].save('images/0.jpg')
    Path('images/0.png').unlink()
    transparent = Image.new('RGBA', (30, 20), (255, 0, 0, 0))
    transparent.save('images/1.png')
    Image.new('I;16', (30, 20), 1000).save('images/2.png')
    assert caption(endpoint, '--slots', '1', '-q') == 0
    (jpeg, data), first, second = map(image_of, endpoint.messages)
    assert jpeg == 'data:image/jpeg;base64'
    assert data == Path('images/0.jpg').read_bytes()
    for (kind, png), color in ((first, 255), (second, None)):
        assert kind == 'data:image/png;base64'
        with Image.open(io.BytesIO(png)) as image:
            assert (image.mode, image.size) == ('RGB', (30, 20))
            assert color is None or image.getpixel((0, 0)) == (color,) * 3


def test_file_that_is_no_image_is_not_sent(endpoint):
    Path('images/a.png').write_text('hello')
    assert caption(endpoint, '-q') == 1
    assert len(endpoint.messages) == 3
    (error,) = [row['error'] for row in rows() if row['error']]
    assert error.startswith('images/a.png cannot be read as an image')


def test_settings_become_fields_of_the_request(endpoint):
    options = '--max-new-tokens 9 --min-new-tokens 2 --temperature 0.5'
    options += ' --top-p 0.9 --top-k 3 --repetition-penalty 1.1 --seed 4'
    assert caption(endpoint, *options.split(), '--stop', 'x', '-q') == 0
    body = endpoint.bodies[0]
    del body['messages']
    assert body == dict(
        model='m',
        max_tokens=9,
        min_tokens=2,
        temperature=0.5,
        top_p=0.9,
        top_k=3,
        repetition_penalty=1.1,
        seed=4,
        stop=['x'],
    )
    assert request_fields(dict(do_sample=False)) == dict(temperature=0.0)
    assert request_fields({}) == {}


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--num-beams', '3'], '--num-beams does not go with --server'),
        (['--do-sample'], 'sampling on a server needs --temperature'),
        (['--device', 'cpu'], '--device does not go with --server'),
        (['--pretrained', 'x.pth'], '--pretrained does not go with'),
        (['--ray'], '--ray does not go with --server'),
        (['--top-p', '2'], 'top_p'),
        (['--server-timeout', '1e10'], 'expected at most 86400 seconds'),
        (['--server-timeout', 'inf'], 'inf is not a number above 0'),
    ],
)
def test_options_that_do_not_go_with_a_server(
    endpoint, options, message, capsys
):
    with pytest.raises(SystemExit, match='2'):
        caption(endpoint, *options)
    assert message in capsys.readouterr().err
    assert not endpoint.messages and not Path('out.sqlite').exists()


def test_key_is_sent_and_hidden(endpoint, monkeypatch, capsys):
    monkeypatch.setenv('MY_KEY', 'secret')
    endpoint.answer = lambda _: (400, {}, dict(message='bad secret key'))
    assert caption(endpoint, '--api-key-env', 'MY_KEY') == 1
    assert set(endpoint.keys) == {'Bearer secret'}
    error = capsys.readouterr().err
    assert 'HTTP 400: bad *** key' in error and 'secret' not in error
    assert caption(endpoint, '--api-key-env', 'NO_KEY') == 1
    assert 'variable NO_KEY holds no key; set it' in capsys.readouterr().err


@pytest.mark.parametrize('key', ['secret\nsecret', 'secret\u00e9', 'se\tcret'])
def test_what_is_no_key_is_refused_and_not_shown(
    endpoint, monkeypatch, capsys, key
):
    monkeypatch.setenv('MY_KEY', key)
    assert caption(endpoint, '--api-key-env', 'MY_KEY') == 1
    error = capsys.readouterr().err
    assert 'variable MY_KEY holds a line end or another' in error
    assert 'secret' not in error and not endpoint.messages


@pytest.mark.parametrize(
    'url', ['localhost:8000', 'ftp://a/v1', 'http://', 'http://a:x/', '']
)
def test_address_that_is_none_is_refused(folder, url, capsys):
    assert cli.main(['caption', 'images', '-o', 'x.csv', '--server', url]) == 1
    assert 'expected the address of a server' in capsys.readouterr().err


def test_password_in_an_address_is_refused_and_not_shown(folder, capsys):
    url = 'http://me:secret@127.0.0.1:1'
    assert cli.main(['caption', 'images', '-o', 'x.csv', '--server', url]) == 1
    error = capsys.readouterr().err
    assert 'without user and password' in error and 'secret' not in error


@pytest.mark.parametrize(
    ('models', 'message'),
    [
        ((404, {}, 'no such page'), 'cannot be used (HTTP 404: no such page)'),
        (
            (401, {}, dict(message='no key')),
            'refuses the key (HTTP 401: no key; name the variable of its key '
            'by --api-key-env).',
        ),
        ((200, {}, '<html>'), 'gives no list of models'),
        ((200, {}, {}), 'gives no list of models'),
        ((200, {}, dict(data=[])), 'has no model.'),
        ((200, {}, dict(data=[dict(id=None)])), 'gives no list of models'),
        ((200, {}, dict(data=[dict(id='')])), 'gives no list of models'),
        ((200, {}, dict(data=[dict(name='m')])), 'gives no list of models'),
        (
            (302, {'Location': 'http://b/'}, ''),
            'cannot be used (it redirects to http://b/)',
        ),
    ],
)
def test_server_without_models_is_refused(endpoint, models, message, capsys):
    endpoint.models = models
    assert caption(endpoint) == 1
    assert message in capsys.readouterr().err
    assert not Path('out.sqlite').exists()


def test_unknown_model_and_dead_server_are_refused(endpoint, capsys):
    assert caption(endpoint, '--model', 'x') == 1
    assert "has no model 'x'; it has m." in capsys.readouterr().err
    endpoint.url = 'http://127.0.0.1:9'
    assert caption(endpoint) == 1
    assert 'cannot be used (the connection failed' in capsys.readouterr().err


def many_images(folder, number):
    data = (folder / 'images' / '0.png').read_bytes()
    for i in range(number):
        (folder / 'images' / f'{i}.png').write_bytes(data)


def refused(text):
    reply = completion('')
    reply['choices'][0]['message']['refusal'] = text
    return reply


@pytest.mark.parametrize(
    ('reply', 'error'),
    [
        ((400, {}, dict(message='too long')), 'HTTP 400: too long.'),
        ((200, {}, '<html>'), 'the answer is HTML.'),
        ((200, {}, '[' * 100_000), 'the answer is no JSON.'),
        ((200, {}, {}), 'the answer has no choices with a message.'),
        ((200, {}, dict(choices=[])), 'the answer has no choices with a'),
        ((200, {}, '{"choices": NaN}'), 'the answer has no choices with a'),
        (
            (200, {}, dict(error=dict(message='quota exceeded'))),
            'the answer has no choices with a message (quota exceeded).',
        ),
        ((200, {}, completion(None, 'tool_calls')), 'the answer has no text.'),
        (
            (200, {}, refused('I cannot see it.')),
            'the answer has no text (I cannot see it).',
        ),
        (
            (429, {'Retry-After': '3600'}, dict(message='slow down')),
            'HTTP 429: slow down; it asks to wait 3600 s.',
        ),
        ((200, {}, completion(5)), 'the answer has no text.'),
        (
            (200, {}, completion('', 'content_filter')),
            'a content filter cut the answer off.',
        ),
        ((500, {}, '<html>'), 'HTTP 500: a page of HTML.'),
    ],
)
def test_failure_of_one_request_is_the_error_of_its_row(
    endpoint, reply, error
):
    replies = iter([completion('yes', 'length'), reply])
    endpoint.answer = lambda _: (
        (200, {}, first)
        if isinstance(first := next(replies, reply), dict)
        else first
    )
    assert caption(endpoint, '--slots', '1', '-q') == 1
    answered, failed, _ = rows()
    assert answered['caption'] == 'yes' and not answered['finished']
    assert failed['error'].startswith(f'{endpoint.url}: {error}')
    endpoint.answer = lambda _: 'yes'
    assert caption(endpoint, '-q') == 0
    assert not any(row['error'] for row in rows())


@pytest.mark.parametrize('tokens', [10**30, 'many', True, -1, None])
def test_odd_counts_of_tokens_are_ignored(endpoint, tokens):
    reply = completion('yes')
    reply['usage']['completion_tokens'] = tokens
    endpoint.answer = lambda _: (200, {}, reply)
    assert caption(endpoint, '-q') == 0
    assert {(row['caption'], row['tokens']) for row in rows()} == {('yes', 0)}


def test_parts_of_a_text_and_an_empty_text_are_answers(endpoint):
    parts = [dict(type='text', text='a '), dict(type='text', text='b')]
    replies = iter([parts, ''])
    endpoint.answer = lambda _: (200, {}, completion(next(replies, 'c')))
    assert caption(endpoint, '--slots', '1', '-q') == 0
    assert [row['caption'] for row in rows()] == ['a b', '', 'c']


def test_proxy_is_named_if_the_connection_fails(endpoint, monkeypatch, capsys):
    monkeypatch.setenv('http_proxy', 'http://me:secret@127.0.0.1:9')
    monkeypatch.delenv('no_proxy', raising=False)
    monkeypatch.delenv('NO_PROXY', raising=False)
    assert caption(endpoint) == 1
    error = capsys.readouterr().err
    assert 'go through the proxy of http_proxy' in error
    assert 'secret' not in error


def test_temporary_errors_are_tried_again(endpoint):
    replies = iter([(503, {}, ''), (429, {}, '')])
    endpoint.answer = lambda _: next(replies, 'yes')
    assert caption(endpoint, '-q') == 0
    assert len(endpoint.messages) == 5


def test_server_without_an_answer(endpoint, monkeypatch, capsys):
    ready = threading.Event()

    def answer(_):
        ready.wait()
        return 'yes'

    endpoint.answer = answer
    monkeypatch.setattr(server, 'SILENT_SECONDS', 0.2)
    options = '--slots', '1', '--server-timeout', '2'
    try:
        assert caption(endpoint, *options) == 1
    finally:
        ready.set()
    printed = capsys.readouterr().err
    assert f'{endpoint.url}: no answer since 0 s; 1 requests wait' in printed
    assert len(endpoint.messages) == 3  # none of them twice
    expected = f'{endpoint.url}: no answer within 2 s.'
    assert [row['error'] for row in rows()] == [expected] * 3
    assert caption(endpoint, '-q') == 0


def test_server_that_fails_on_every_request_ends_the_run(
    folder, endpoint, capsys
):
    many_images(folder, 60)
    endpoint.answer = lambda _: (400, {}, dict(message='too long'))
    assert caption(endpoint, '--slots', '2') == 1
    assert 16 <= len(endpoint.messages) <= 18
    assert '16 requests failed in succession' in capsys.readouterr().err
    endpoint.answer = lambda _: (401, {}, dict(message='the key expired'))
    del endpoint.messages[:]
    assert caption(endpoint, '--slots', '2') == 1
    assert len(endpoint.messages) <= 3
    assert 'HTTP 401: the key expired' in capsys.readouterr().err
    endpoint.answer = lambda _: 'yes'
    assert caption(endpoint) == 0
    assert len(rows()) == 60 and not any(row['error'] for row in rows())


def test_no_more_requests_at_the_same_time_than_slots(folder, endpoint):
    many_images(folder, 12)
    all_slots = threading.Barrier(3, timeout=60)

    def answer(_):
        all_slots.wait()
        time.sleep(0.05)  # another request would arrive
        return 'yes'

    endpoint.answer = answer
    assert caption(endpoint, '--slots', '3', '-q') == 0
    assert endpoint.most == 3


@pytest.mark.parametrize('signum', [signal.SIGINT, signal.SIGKILL])
def test_stopped_run_does_not_wait_and_continues(folder, endpoint, signum):
    many_images(folder, 9)
    held = threading.Event()
    lock = threading.Lock()
    answered = []

    def answer(message):
        with lock:
            answered.append(message)
            number = len(answered)
        if number > 4:
            held.wait(600)
        return 'yes'

    endpoint.answer = answer
    process = subprocess.Popen(
        [
            *(sys.executable, '-m', 'minigpt4_cli.main', 'caption'),
            *('images', '-o', 'out.jsonl', '--slots', '2'),
            *('--server', endpoint.url),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 300
    # the sixth request is sent when the fourth answer is stored
    while len(answered) < 6 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signum)
    _, error = process.communicate(timeout=120)
    assert not Path('out.jsonl').exists()
    if signum == signal.SIGINT:
        assert process.returncode == 130
        assert 'the same command continues from there' in error
    held.set()
    del answered[:]
    assert caption(endpoint, '-q') == 0
    assert len(answered) == 5 and len(rows()) == 9
