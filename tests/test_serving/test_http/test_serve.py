# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 serve`` as a process: start, requests, stop, and errors."""

import argparse
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys

import pytest

from minigpt4_cli import main as cli
from minigpt4_cli import serve as cli_serve
from minigpt4_cli.serve import add_arguments

openai = pytest.importorskip('openai', reason='needs minigpt4[serve]')
pytest.importorskip('httpcore', reason='needs minigpt4[serve]')
pytest.importorskip('prometheus_client', reason='needs minigpt4[serve]')
pytest.importorskip('uvicorn', reason='needs minigpt4[serve]')

from minigpt4.images.request_images import ImageLimits
from minigpt4.serving.http import serve
from minigpt4.serving.http.connections import ConnectionLimits
from minigpt4.serving.http.parse_request import RequestLimits

NAME = 'minigpt-4_nano_caption'
# The command with a slow engine: the nano model could be done before the
# signals arrive.
SLOW = """
import sys, time
from minigpt4_cli.main import main
from minigpt4.generation.engine import Engine
step = Engine.step
def slow_step(self):
    time.sleep(0.02)
    return step(self)
Engine.step = slow_step
sys.exit(main(sys.argv[1:]))
"""


@contextlib.contextmanager
def started(*words):
    """A verb as a process, which is killed at the end."""
    environment = {
        **os.environ,
        'OMP_NUM_THREADS': '1',
        'HF_HUB_OFFLINE': '1',
        serve.KEY_VARIABLE: 'secret',
    }
    process = subprocess.Popen(
        [sys.executable, *words, 'serve', '--model', NAME, '--port', '0'],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def process():
    with started('-m', 'minigpt4_cli.main') as process:
        yield process


@pytest.fixture
def slow_process():
    with started('-c', SLOW) as process:
        yield process


@pytest.mark.slow
def test_a_stop_finishes_running_answers(slow_process):
    process, output = slow_process, []
    for line in process.stdout:
        output.append(line)
        found = re.search(r'at (http://127\.0\.0\.1:\d+/v1)$', line)
        if found:
            break
    else:
        pytest.fail(''.join(output))
    assert output[0] == f'loading {NAME} ...\n'
    client = openai.OpenAI(
        base_url=found[1], api_key='secret', max_retries=0, timeout=60
    )
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key='guess').models.list()
    settings = dict(
        model=NAME,
        messages=[dict(role='user', content='Who are you?')],
        max_tokens=200,
        temperature=1.5,
        extra_body=dict(min_tokens=200),
    )
    stream = client.chat.completions.create(stream=True, **settings)
    next(iter(stream))
    process.send_signal(signal.SIGTERM)
    with pytest.raises(openai.APIStatusError, match='stopping') as caught:
        while True:  # until the signal has arrived
            client.chat.completions.create(**dict(settings, max_tokens=1))
    assert caught.value.status_code == 503
    reasons = [event.choices[0].finish_reason for event in stream]
    assert reasons[-1] in ('stop', 'length')  # the complete answer
    assert process.wait(120) == 0
    assert 'all answers were finished' in process.stdout.read()
    with pytest.raises(openai.APIConnectionError):
        client.models.list()


def url_of(process) -> str:
    """Read the URL of a server from its output."""
    for line in process.stdout:
        found = re.search(r'at (http://127\.0\.0\.1:\d+)/v1$', line)
        if found:
            return found[1]
    pytest.fail('the server ended')


@pytest.mark.slow
def test_a_second_signal_cuts_answers_off(slow_process):
    process, url = slow_process, url_of(slow_process)
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
        for seed in range(8)
    ]
    process.send_signal(signal.SIGHUP)
    output = process.stdout.readline()
    while 'SIGHUP: no new requests' not in output:
        output += process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    errors = []
    for stream in streams:
        try:
            list(stream)
        except openai.APIError as error:
            errors.append(str(error))
    assert errors
    assert all('before the answer was complete' in error for error in errors)
    assert process.wait(120) == 128 + signal.SIGHUP
    output += process.stdout.read()
    assert re.search(
        r'^stopped by SIGHUP; \d+ answers were cut off\.$', output, re.M
    )
    assert 'Traceback' not in output
    assert not set('\x1b\x9b') & set(output)


@pytest.mark.slow
def test_a_signal_during_start_up(process):
    signum = signal.SIGINT  # tests of utils/signals.py cover the others
    assert process.stdout.readline() == f'loading {NAME} ...\n'
    process.send_signal(signum)
    assert process.wait(120) == 128 + signum
    output = process.stdout.read()
    assert output.strip() == f'stopped by {signum.name}'


def refused(capsys, *arguments: str) -> str:
    """The error of a verb that does not start: one line on stderr."""
    status = cli.main(['serve', *arguments])
    output = capsys.readouterr()
    assert status and not output.out
    assert output.err.startswith('error: ') and output.err.count('\n') == 1
    return output.err


def test_invalid_options_are_refused_before_the_model_is_loaded(
    capsys, monkeypatch, tmp_path
):
    monkeypatch.setattr(serve, 'load_model', None)  # nothing is loaded
    assert 'did you mean minigpt-4_nano' in refused(
        capsys, '--model', 'minigpt-4_nano'
    )
    assert 'is no folder' in refused(
        capsys, '--images-from', str(tmp_path / 'nowhere')
    )
    with socket.create_server(('127.0.0.1', 0)) as other:
        port = str(other.getsockname()[1])
        output = refused(capsys, '--port', port)
        assert f'port {port} cannot be used' in output and 'in use' in output
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
        ('httpcore', [], 'serve'),
        ('prometheus_client', [], 'serve'),
        ('uvicorn', [], 'serve'),
        ('gradio', ['--web'], 'web'),
    ],
)
def test_missing_packages_are_named(
    package, arguments, extra, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, package, None)
    output = refused(capsys, *arguments)
    assert package in output and f"pip install 'minigpt4[{extra}]'" in output


def test_access_from_other_machines_is_announced_with_a_warning():
    def greeting(host: str, has_key: bool = False) -> str:
        with serve.bind(host, 0) as listener:
            return serve.greeting(NAME, listener, web=True, has_key=has_key)

    assert 'warning' not in greeting('127.0.0.1')
    assert 'every machine that can connect' in greeting('0.0.0.0')
    assert 'warning' not in greeting('0.0.0.0', has_key=True)
    assert 'chat page: http://127.0.0.1:' in greeting('127.0.0.1')


def test_defaults_of_options_are_those_of_the_limits():
    """The parser imports nothing of the package, so it repeats them."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args = parser.parse_args([])
    assert args.host == '127.0.0.1'
    connections = ConnectionLimits()
    for option, limit in (
        (args.max_connections, connections.total),
        (args.max_client_connections, connections.per_client),
        (args.header_seconds, connections.header_seconds),
        (args.idle_seconds, connections.idle_seconds),
        (args.body_seconds, connections.body_seconds),
        (args.send_seconds, connections.send_seconds),
        (args.max_image_mb * 2**20, ImageLimits().bytes),
        (args.max_megapixels * 1e6, ImageLimits().pixels),
        (args.fetch_seconds, ImageLimits().seconds),
        (args.max_body_mb * 2**20, RequestLimits().body),
        (args.max_images, RequestLimits().images),
        (args.max_tokens, RequestLimits().max_tokens),
        (args.max_choices, RequestLimits().choices),
        (args.max_beams, RequestLimits().beams),
        (args.max_seconds, RequestLimits().seconds),
        (args.max_client_requests, RequestLimits().client_requests),
    ):
        assert option == limit
    assert serve.KEY_VARIABLE == cli_serve.KEY_VARIABLE


def test_an_address_is_bound_once():
    """Two servers started at once (vllm #7514)."""
    with serve.bind('127.0.0.1', 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(OSError, match=f'port {port} cannot be used'):
            serve.bind('127.0.0.1', port)


def test_white_space_around_the_key_is_removed():
    """A file of a secret ends with a line end (exportarr #327)."""
    assert serve.clean_key('secret\r\n') == 'secret'
    assert serve.clean_key(None) is None
