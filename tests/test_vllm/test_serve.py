# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""vLLM answers from an exported folder as the generation engine does.

vLLM needs an environment of its own (docs/vllm.md): ``MINIGPT4_VLLM_PYTHON``
names its Python.
"""

import base64
import contextlib
import io
import json
import os
import random
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pytest
from PIL import Image

from minigpt4.captioning.inferencer import get_model, make_sample
from minigpt4.convert.huggingface_export import export_huggingface
from minigpt4.nano.world import render, sample_scene

PYTHON = os.environ.get('MINIGPT4_VLLM_PYTHON')
NANO = 'minigpt-4_nano_caption'
DESCRIBE = 'Describe this image in detail.'
COUNT = 'How many shapes are there?'
SETTINGS = dict(
    HF_HUB_OFFLINE='1',
    OMP_NUM_THREADS='1',
    VLLM_CPU_KVCACHE_SPACE='1',
    VLLM_CPU_OMP_THREADS_BIND='nobind',
    VLLM_NO_USAGE_STATS='1',
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        PYTHON is None, reason='MINIGPT4_VLLM_PYTHON names no Python with vLLM'
    ),
]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """The exported nano model."""
    folder = tmp_path_factory.mktemp('export') / 'nano'
    export_huggingface(NANO, None, folder)
    return folder


@pytest.fixture(scope='module')
def model():
    return get_model(NANO, device='cpu')


@contextlib.contextmanager
def serve(folder, log):
    """Run a server of vLLM with a folder; yields its address."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, **SETTINGS}
    environment.pop('PYTHONPATH', None)
    with open(log, 'w') as out:
        process = subprocess.Popen(
            [
                *(str(PYTHON), '-m', 'vllm.entrypoints.openai.api_server'),
                *('--model', str(folder), '--served-model-name', 'nano'),
                *('--host', '127.0.0.1', '--port', str(port)),
                *('--dtype', 'float32', '--enforce-eager'),
            ],
            stdout=out,
            stderr=out,
            env=environment,
            start_new_session=True,
        )
    address = f'http://127.0.0.1:{port}'
    try:
        end = time.monotonic() + 1500
        while True:
            try:
                urllib.request.urlopen(f'{address}/health', timeout=5)
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > end:
                    pytest.fail(f'no server:\n{log.read_text()[-3000:]}')
                time.sleep(1)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope='module')
def server(folder, tmp_path_factory):
    with serve(folder, tmp_path_factory.mktemp('serve') / 'log') as address:
        yield address


def image_part(data: bytes) -> dict:
    code = base64.b64encode(data).decode()
    url = f'data:image/png;base64,{code}'
    return dict(type='image_url', image_url=dict(url=url))


def text_part(text: str) -> dict:
    return dict(type='text', text=text)


def post(server, content, **settings) -> str:
    """Send one user message in the format of OpenAI's API."""
    body = dict(
        model='nano',
        messages=[dict(role='user', content=content)],
        return_token_ids=True,
        **settings,
    )
    request = urllib.request.Request(
        f'{server}/v1/chat/completions',
        json.dumps(body).encode(),
        {'Content-Type': 'application/json'},
    )
    with urllib.request.urlopen(request, timeout=300) as response:
        return response.read().decode()


def ask(server, content, **settings) -> dict:
    (choice,) = json.loads(post(server, content, **settings))['choices']
    return choice


def refusal(server, content, **settings) -> tuple[int, str]:
    """Status and message of a request that is refused."""
    with pytest.raises(urllib.error.HTTPError) as caught:
        post(server, content, **settings)
    message = json.loads(caught.value.read())['error']['message']
    return caught.value.code, message


def scene_files(number: int) -> list[bytes]:
    """Held-out scenes as PNG files, every second of another size."""
    rng = random.Random(7)
    files = []
    for i in range(number):
        image = render(sample_scene(rng, held_out=True), rng)
        if i % 2:
            image = image.resize((317, 211))
        buffer = io.BytesIO()
        image.save(buffer, 'PNG')
        files.append(buffer.getvalue())
    return files


def test_greedy_ids_of_held_out_scenes(server, model):
    different = []
    for i, data in enumerate(scene_files(50)):
        for question in (DESCRIBE, COUNT):
            sample = make_sample([data], question, 64)
            (expected,) = model.generate([sample])
            answer = ask(server, [image_part(data), text_part(question)])
            assert answer['finish_reason'] == 'stop'
            if answer['token_ids'] != expected.token_ids:
                different.append((i, question))
    assert not different


def test_images_stay_where_the_message_has_them(server, model):
    one, two = scene_files(2)
    content = [
        text_part('Is'),
        image_part(one),
        text_part('like'),
        image_part(two),
        text_part('?'),
    ]
    text = 'Is <Img><ImageHere></Img> like <Img><ImageHere></Img> ?'
    (expected,) = model.generate([make_sample([one, two], text, 64)])
    assert ask(server, content)['token_ids'] == expected.token_ids


def test_transparent_pixels_are_white(server, model):
    buffer = io.BytesIO()
    image = Image.new('RGBA', (64, 64), (0, 0, 0, 0))
    image.paste((255, 0, 0, 255), (10, 10, 40, 40))
    image.save(buffer, 'PNG')
    data = buffer.getvalue()
    (expected,) = model.generate([make_sample([data], DESCRIBE, 64)])
    answer = ask(server, [image_part(data), text_part(DESCRIBE)])
    assert answer['token_ids'] == expected.token_ids


def test_without_an_image(server, model):
    (expected,) = model.generate([make_sample([], COUNT, 64)])
    assert ask(server, COUNT)['token_ids'] == expected.token_ids


def test_a_stream_has_the_same_text(server):
    (data,) = scene_files(1)
    content = [image_part(data), text_part(DESCRIBE)]
    expected = ask(server, content)['message']['content']
    lines = post(server, content, stream=True).splitlines()
    pieces = [
        choice['delta'].get('content') or ''
        for line in lines
        if line.startswith('data: {')
        for choice in json.loads(line.removeprefix('data: '))['choices']
    ]
    assert ''.join(pieces) == expected
    assert len([x for x in pieces if x]) > 3
    assert '###' not in expected


def test_a_stop_string_of_the_request(server):
    (data,) = scene_files(1)
    content = [image_part(data), text_part(DESCRIBE)]
    text = ask(server, content)['message']['content']
    stop = text.split()[2]
    short = ask(server, content, stop=[stop])['message']['content']
    assert text.startswith(short) and stop not in short


def test_the_penalty_applies_to_the_answer_alone(server, model):
    (data,) = scene_files(1)
    sample = make_sample([data], DESCRIBE, 64)
    (expected,) = model.generate([sample], repetition_penalty=20.0)
    (plain,) = model.generate([sample])
    assert expected.token_ids != plain.token_ids
    content = [image_part(data), text_part(DESCRIBE)]
    answer = ask(server, content, repetition_penalty=20.0, max_tokens=80)
    assert answer['token_ids'] == expected.token_ids


def test_broken_images_are_refused(server):
    (data,) = scene_files(1)
    for broken in (b'no image', data[: len(data) // 2]):
        status, message = refusal(
            server, [image_part(broken), text_part(COUNT)]
        )
        assert status == 400 and 'image' in message
    assert ask(server, COUNT)['message']['content']


def test_a_prompt_that_is_too_long_is_refused(server):
    status, message = refusal(server, 'shapes ' * 2000)
    assert status == 400 and '512' in message
    (data,) = scene_files(1)
    status, _ = refusal(server, [image_part(data)] * 40)
    assert status == 400


def test_an_image_token_in_a_text_is_refused(server):
    status, message = refusal(server, 'What is <unk>?')
    assert status == 400 and '<unk>' in message


def test_many_images(server):
    """As many as the context has room for."""
    content = [*map(image_part, scene_files(8)), text_part(COUNT)]
    assert ask(server, content)['message']['content']
