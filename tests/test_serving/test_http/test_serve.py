# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 serve`` as a process: start, questions, stop, and bad starts."""

import argparse
import os
import re
import signal
import socket
import subprocess
import sys

import pytest

from minigpt4.serving.http import serve
from minigpt4_cli import main as cli
from minigpt4_cli.serve import add_arguments

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
    command = [sys.executable, '-m', 'minigpt4_cli.main', 'serve']
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
    assert 'all answers were finished' in process.stdout.read()
    with pytest.raises(openai.APIConnectionError):
        client.models.list()


def url_of(process) -> str:
    """Where a started server answers."""
    for line in process.stdout:
        found = re.search(r'at (http://127\.0\.0\.1:\d+)/v1$', line)
        if found:
            return found[1]
    pytest.fail('it ended')


@pytest.mark.slow
def test_a_second_signal_cuts_answers_off_and_the_log_is_clean(process):
    url = url_of(process)
    with socket.create_connection(('127.0.0.1', int(url[17:]))) as hostile:
        hostile.sendall(
            b'GET /%0aINFO:%1b[31m?\x9b HTTP/1.1\r\nHost: localhost\r\n'
            b'X-Forwarded-For: \x9b31m\r\nUser-Agent: \x9b\r\n\r\n'
        )
        hostile.recv(65536)
    client = openai.OpenAI(
        base_url=url + '/v1', api_key='secret', max_retries=0, timeout=60
    )
    streams = [
        client.chat.completions.create(
            model=NAME,
            messages=[dict(role='user', content='Who are you?')],
            max_tokens=480,
            temperature=2,
            seed=seed,
            stream=True,
            extra_body=dict(min_tokens=480, top_k=500),
        )
        for seed in range(12)  # some end early, at a stop text
    ]
    process.send_signal(signal.SIGHUP)
    said = process.stdout.readline()
    while 'SIGHUP: no new requests' not in said:
        said += process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    errors = []
    for stream in streams:
        try:
            list(stream)
        except openai.APIError as error:
            errors.append(str(error))
    assert errors
    assert all('before the answer was whole' in error for error in errors)
    assert process.wait(30) == 128 + signal.SIGHUP
    said += process.stdout.read()
    assert re.search(
        r'^stopped by SIGHUP; \d+ answers were cut off\.$', said, re.M
    )
    assert 'Traceback' not in said
    assert not set('\x1b\x9b') & set(said)


@pytest.mark.slow
@pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_model_is_loaded(process, signum):
    assert process.stdout.readline() == f'loading {NAME} ...\n'
    process.send_signal(signum)
    assert process.wait(60) == 128 + signum
    said = process.stdout.read()
    assert said.strip() == f'stopped by {signum.name}'


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
    for arguments, why in (
        (['--api-key', ' '], 'API key is empty'),
        (['--allowed-host', 'http://a/'], 'not a host name'),
        (['--allowed-origin', 'a.example'], 'not an origin'),
        (['--proxy', 'nginx'], 'neither an IP address nor a network'),
    ):
        assert why in refused(capsys, *arguments)
    for flag, value in (
        ('--slots', '0'),
        ('--port', '99999'),
        ('--max-body-mb', 'inf'),  # SMAC3 #58
        ('--max-image-mb', 'nan'),
        ('--body-seconds', '0'),
        ('--drain-seconds', '-1'),
    ):
        with pytest.raises(SystemExit):
            cli.main(['serve', flag, value])
        assert f'{value} is no' in capsys.readouterr().err


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
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    arguments = parser.parse_args([])
    assert arguments.host == '127.0.0.1'

    def greeting(host: str, **settings) -> str:
        with serve._bind(host, 0) as listener:
            for name, value in {'api_key': None, **settings}.items():
                setattr(arguments, name, value)
            return serve._greeting(arguments, NAME, listener)

    assert 'warning' not in greeting('127.0.0.1')
    assert 'anybody who reaches' in greeting('0.0.0.0')
    assert 'warning' not in greeting('0.0.0.0', api_key='secret')


def test_an_address_is_taken_before_the_model_is_loaded():
    """Two servers started at once (vllm #7514)."""
    with serve._bind('127.0.0.1', 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(OSError, match=f'port {port} cannot be used'):
            serve._bind('127.0.0.1', port)


def test_blanks_around_the_key_are_dropped():
    """A file of a secret ends with a line end (exportarr #327)."""
    assert serve.checked_key('secret\r\n') == 'secret'
    assert serve.checked_key(None) is None
