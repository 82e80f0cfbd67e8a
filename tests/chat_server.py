# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A chat server on loopback for tests, and requests to it.

Import it after the packages of ``minigpt4[serve]`` were found.
"""

import base64
import contextlib
import http.client
import io
import json
import socket
import threading
import time

import openai
from PIL import Image

from minigpt4.generation.engine import Engine
from minigpt4.generation.worker import EngineWorker
from minigpt4.serving.http.api import ChatApi
from minigpt4.serving.http.http_server import make_server

NAME = 'minigpt-4_nano_caption'
DESCRIBE = 'Describe this image in detail.'
PATIENCE = 120  # seconds that only a fault takes


def url_of(image: Image.Image, kind: str = 'PNG') -> str:
    """An image as a data URL."""
    buffer = io.BytesIO()
    image.save(buffer, kind)
    code = base64.b64encode(buffer.getvalue()).decode()
    return f'data:image/{kind.lower()};base64,{code}'


def ask(text: str, *urls: str) -> list[dict]:
    images = [dict(type='image_url', image_url=dict(url=u)) for u in urls]
    return [dict(role='user', content=[*images, dict(type='text', text=text)])]


@contextlib.contextmanager
def running(
    model, slots=8, max_waiting=64, sources=None, connections=None, **settings
):
    """A server; yields its ``api``, with ``url`` and ``client`` added."""

    worker = EngineWorker(Engine(model, slots=slots), max_waiting)
    api = ChatApi(worker, NAME, sources, **settings)
    server = make_server(api, 600, connections, log_level='error')
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        api.port = listener.getsockname()[1]
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        until(lambda: server.started)
        api.url = f'http://127.0.0.1:{api.port}'
        api.server = server
        api.client = openai.OpenAI(
            base_url=api.url + '/v1',
            api_key=settings.get('api_key') or 'none',
            max_retries=0,
            timeout=PATIENCE,
        )
        try:
            yield api
        finally:
            server.should_exit = True
            thread.join(PATIENCE)
            worker.close(drain=False)
            assert not thread.is_alive()


def complete(api, messages, **settings):
    return api.client.chat.completions.create(
        model=NAME, messages=messages, **settings
    )


def text_of(api, messages, **settings) -> str:
    return complete(api, messages, **settings).choices[0].message.content


def post(api, body: bytes, headers=(), path='/v1/chat/completions'):
    """Send a POST request; returns its status, headers and content."""
    connection = http.client.HTTPConnection(
        '127.0.0.1', api.port, timeout=PATIENCE
    )
    try:
        connection.request(
            'POST',
            path,
            body,
            {'Content-Type': 'application/json', **dict(headers)},
        )
        response = connection.getresponse()
        return response.status, response.headers, json.load(response)
    finally:
        connection.close()


def get(api, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection(
        '127.0.0.1', api.port, timeout=PATIENCE
    )
    try:
        connection.request('GET', path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


@contextlib.contextmanager
def slow_engine(api, seconds: float = 0.03):
    """Delay each step of the engine."""
    engine = api.worker.engine
    step = type(engine).step

    def slow() -> bool:
        time.sleep(seconds)
        return step(engine)

    engine.step = slow
    try:
        yield
    finally:
        del engine.step


@contextlib.contextmanager
def held_engine(api):
    """Let the engine take no step; yields a function that allows some.

    Its argument is the number of steps; without it all are allowed.
    """
    engine = api.worker.engine
    step = type(engine).step
    allowed, released = threading.Semaphore(0), threading.Event()

    def held() -> bool:
        while not released.is_set() and not allowed.acquire(timeout=0.01):
            pass
        return step(engine)

    def allow(number: int | None = None) -> None:
        if number is None:
            released.set()
        else:
            allowed.release(number)

    engine.step = held
    try:
        yield allow
    finally:
        released.set()
        del engine.step


def until(condition, seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, 'the condition never held'
        time.sleep(0.005)
