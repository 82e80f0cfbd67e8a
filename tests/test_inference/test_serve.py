# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 serve`` as a process: start, questions, stop, and bad starts."""

import os
import re
import signal
import socket
import subprocess
import sys

import pytest

from minigpt4.inference import cli
from minigpt4.inference.server import serve

openai = pytest.importorskip('openai', reason='needs minigpt4[serve]')
pytest.importorskip('uvicorn', reason='needs minigpt4[serve]')

NAME = 'minigpt-4_nano_caption'


@pytest.fixture
def process():
    """The verb, started as a user would; it is stopped in any case."""
    environment = {
        **os.environ,
        'OMP_NUM_THREADS': '1',
        'HF_HUB_OFFLINE': '1',
        serve.KEY_VARIABLE: 'secret',
    }
    command = [sys.executable, '-m', 'minigpt4.inference.cli', 'serve']
    process = subprocess.Popen(
        [*command, '--model', NAME, '--port', '0'],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )
    yield process
    process.kill()
    process.communicate()


@pytest.mark.slow
def test_start_ask_and_stop(process):
    said = []
    for line in process.stdout:
        said.append(line)
        found = re.search(r'at (http://127\.0\.0\.1:\d+/v1)$', line)
        if found:
            break
    else:
        pytest.fail(''.join(said))
    assert said[0] == f'loading {NAME} ...\n'
    client = openai.OpenAI(
        base_url=found[1], api_key='secret', max_retries=0, timeout=60
    )
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key='guess').models.list()
    settings = dict(
        model=NAME,
        messages=[dict(role='user', content='Who are you?')],
        max_tokens=300,
        temperature=1.5,
        extra_body=dict(min_tokens=300),
    )
    stream = client.chat.completions.create(stream=True, **settings)
    next(iter(stream))
    process.send_signal(signal.SIGTERM)
    with pytest.raises(openai.APIStatusError, match='stopping') as caught:
        while True:  # until the signal has come
            client.chat.completions.create(**dict(settings, max_tokens=1))
    assert caught.value.status_code == 503
    reasons = [event.choices[0].finish_reason for event in stream]
    assert reasons[-1] in ('stop', 'length')  # the whole answer
    assert process.wait(30) == 0
    with pytest.raises(openai.APIConnectionError):
        client.models.list()


def refused(capsys, *arguments: str) -> str:
    """What the verb says on standard error when it does not start."""
    status = cli.main(['serve', *arguments])
    said = capsys.readouterr()
    assert status and not said.out
    assert said.err.startswith('error: ') and said.err.count('\n') == 1
    return said.err


def test_a_start_that_cannot_be_is_told_at_once(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(serve, 'load_model', None)  # nothing is loaded
    assert 'did you mean minigpt-4_nano' in refused(
        capsys, '--model', 'minigpt-4_nano'
    )
    assert 'is no folder' in refused(
        capsys, '--images-from', str(tmp_path / 'nowhere')
    )
    with socket.create_server(('127.0.0.1', 0)) as other:
        port = str(other.getsockname()[1])
        said = refused(capsys, '--port', port)
        assert f'port {port} cannot be used' in said and 'in use' in said
    assert 'cannot be used' in refused(capsys, '--host', 'no.such.host.')
    for flag, value in (('--slots', '0'), ('--port', '99999')):
        with pytest.raises(SystemExit):
            cli.main(['serve', flag, value])
        assert f'{value} is not ' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('package', 'arguments', 'extra'),
    [
        ('fastapi', [], 'serve'),
        ('uvicorn', [], 'serve'),
        ('gradio', ['--web'], 'web'),
    ],
)
def test_what_is_not_installed_is_named(
    package, arguments, extra, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, package, None)
    said = refused(capsys, *arguments)
    assert package in said and f"pip install 'minigpt4[{extra}]'" in said


def test_other_machines_are_a_choice_with_a_warning():
    arguments = serve._parser().parse_args([])
    assert arguments.host == '127.0.0.1'

    def greeting(host: str, **settings) -> str:
        with serve._bind(host, 0) as listener:
            for name, value in {'api_key': None, **settings}.items():
                setattr(arguments, name, value)
            return serve._greeting(arguments, NAME, listener)

    assert 'warning' not in greeting('127.0.0.1')
    assert 'anybody who reaches' in greeting('0.0.0.0')
    assert 'warning' not in greeting('0.0.0.0', api_key='secret')
