# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""vLLM answers from an exported folder as the generation engine does.

vLLM needs an environment of its own (docs/vllm.md): ``MINIGPT4_VLLM_PYTHON``
names its Python.
"""

import csv
import io
import json
import os
import random
import urllib.error
from pathlib import Path

import pytest
from PIL import Image
from tests.served_process import image_part, post_message, served, text_part

from minigpt4.captioning.inferencer import make_sample
from minigpt4.nano.world import render, sample_scene
from minigpt4_cli import main as cli

PYTHON = os.environ.get('MINIGPT4_VLLM_PYTHON')
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


def serve(folder, log):
    """Run a server of vLLM with a folder; yields its address."""
    environment = {**os.environ, **SETTINGS}
    environment.pop('PYTHONPATH', None)
    command = [
        *(str(PYTHON), '-m', 'vllm.entrypoints.openai.api_server'),
        *('--model', str(folder), '--served-model-name', 'nano'),
        *('--dtype', 'float32', '--enforce-eager'),
    ]
    return served(command, environment, log, 1500)


@pytest.fixture(scope='module')
def server(nano_folder, tmp_path_factory):
    with serve(
        nano_folder, tmp_path_factory.mktemp('serve') / 'log'
    ) as address:
        yield address


def post(server, content, **settings) -> str:
    return post_message(
        server, 'nano', content, return_token_ids=True, **settings
    )


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


def test_greedy_ids_of_held_out_scenes(server, nano_model):
    different = []
    for i, data in enumerate(scene_files(50)):
        for question in (DESCRIBE, COUNT):
            sample = make_sample([data], question, 64)
            (expected,) = nano_model.generate([sample])
            answer = ask(server, [image_part(data), text_part(question)])
            assert answer['finish_reason'] == 'stop'
            if answer['token_ids'] != expected.token_ids:
                different.append((i, question))
    assert not different


def test_images_stay_where_the_message_has_them(server, nano_model):
    one, two = scene_files(2)
    content = [
        text_part('Is'),
        image_part(one),
        text_part('like'),
        image_part(two),
        text_part('?'),
    ]
    text = 'Is <Img><ImageHere></Img> like <Img><ImageHere></Img> ?'
    (expected,) = nano_model.generate([make_sample([one, two], text, 64)])
    assert ask(server, content)['token_ids'] == expected.token_ids


def test_transparent_pixels_are_white(server, nano_model):
    buffer = io.BytesIO()
    image = Image.new('RGBA', (64, 64), (0, 0, 0, 0))
    image.paste((255, 0, 0, 255), (10, 10, 40, 40))
    image.save(buffer, 'PNG')
    data = buffer.getvalue()
    (expected,) = nano_model.generate([make_sample([data], DESCRIBE, 64)])
    answer = ask(server, [image_part(data), text_part(DESCRIBE)])
    assert answer['token_ids'] == expected.token_ids


def test_without_an_image(server, nano_model):
    (expected,) = nano_model.generate([make_sample([], COUNT, 64)])
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


def test_the_penalty_applies_to_the_answer_alone(server, nano_model):
    (data,) = scene_files(1)
    sample = make_sample([data], DESCRIBE, 64)
    (expected,) = nano_model.generate([sample], repetition_penalty=20.0)
    (plain,) = nano_model.generate([sample])
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


def test_captions_of_a_folder_equal_those_without_a_server(
    server, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for i, data in enumerate(scene_files(8)):
        (tmp_path / f'{i}.png').write_bytes(data)
    asked = ['--prompt', DESCRIBE, '--prompt', COUNT]
    for name, options in (('a', []), ('b', ['--server', server])):
        arguments = ['.', '-o', f'{name}.csv', *asked, *options]
        assert cli.main(['caption', *arguments]) == 0
    local, remote = (
        [row[:6] for row in csv.reader(Path(f'{name}.csv').open())]
        for name in 'ab'
    )
    assert remote == local and len(local) == 17
