# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A program that serves OpenAI's API on loopback, for tests."""

import base64
import contextlib
import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.free_port import free_port


@contextlib.contextmanager
def served(
    command: Sequence[str],
    environment: Mapping[str, str],
    log: Path,
    seconds: float,
) -> Iterator[str]:
    """Run a server; yields its address.

    Args:
        command: Its command, to which ``--host`` and ``--port`` are added.
        environment: All its variables.
        log: The file of what it prints.
        seconds: How long it may take to start.
    """
    port = free_port()
    with open(log, 'w') as out:
        process = subprocess.Popen(
            [*command, '--host', '127.0.0.1', '--port', str(port)],
            stdout=out,
            stderr=out,
            env=dict(environment),
            start_new_session=True,
        )
    address = f'http://127.0.0.1:{port}'
    try:
        end = time.monotonic() + seconds
        while True:
            try:
                urllib.request.urlopen(f'{address}/health', timeout=5)
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > end:
                    pytest.fail(f'no server:\n{log.read_text()[-3000:]}')
                time.sleep(0.3)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(120)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def text_part(text: str) -> dict:
    """A text of a message."""
    return dict(type='text', text=text)


def image_part(data: bytes) -> dict:
    """A PNG image of a message."""
    code = base64.b64encode(data).decode()
    url = f'data:image/png;base64,{code}'
    return dict(type='image_url', image_url=dict(url=url))


def post_message(server: str, model: object, content: list, **settings) -> str:
    """Send one message of the user; returns the body of the response."""
    body = dict(
        model=str(model),
        messages=[dict(role='user', content=content)],
        **settings,
    )
    request = urllib.request.Request(
        f'{server}/v1/chat/completions',
        json.dumps(body).encode(),
        {'Content-Type': 'application/json'},
    )
    with urllib.request.urlopen(request, timeout=300) as response:
        return response.read().decode()
