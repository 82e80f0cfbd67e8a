# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``transformers serve`` answers from an exported folder as we do."""

import json
import os
import sys
import urllib.error
from pathlib import Path

import pytest
from tests.served_process import image_part, post_message, served, text_part

from minigpt4.captioning.inferencer import get_model, make_sample
from minigpt4.convert.huggingface_export import export_huggingface

SCENE = Path(__file__).parents[2] / 'demo' / 'scene.png'
# more threads than free cores slow down small models
ONE_THREAD = dict(OMP_NUM_THREADS='1', OMP_WAIT_POLICY='PASSIVE')
PROMPTS = (
    'Describe this image in detail.',
    'How many shapes are there?',
    'Write a poem about this image.',
)

pytestmark = pytest.mark.slow


def serve(folder, log):
    """Run ``transformers serve`` with a folder; yields its address."""
    for library in ('fastapi', 'uvicorn', 'openai', 'requests'):
        pytest.importorskip(library)
    command = [
        *(sys.executable, '-c'),
        'from transformers.cli.transformers import main; main()',
        *('serve', str(folder), '--device', 'cpu', '--dtype', 'float32'),
    ]
    return served(command, {**os.environ, **ONE_THREAD}, log, 120)


@pytest.fixture(scope='module')
def server(nano_folder, tmp_path_factory):
    """The address of ``transformers serve`` with the nano model."""
    with serve(nano_folder, tmp_path_factory.mktemp('serve') / 'log') as at:
        yield at


def post(server, model, text, *, image=True, **settings):
    """Send a text, then an image."""
    parts = [text_part(text)]
    if image:
        parts.append(image_part(SCENE.read_bytes()))
    return post_message(server, model, parts, **settings)


@pytest.mark.parametrize('prompt', PROMPTS)
def test_answer_equals_ours(server, nano_folder, nano_model, prompt):
    sample = make_sample([SCENE], prompt, 64)
    expected = nano_model.generate([sample])[0].text
    answer = json.loads(post(server, nano_folder, prompt))
    (choice,) = answer['choices']
    assert choice['message']['content'] == expected
    assert choice['finish_reason'] == 'stop'
    lines = post(server, nano_folder, prompt, stream=True).splitlines()
    events = [
        json.loads(line.removeprefix('data: ')) for line in lines if line
    ]
    pieces = [
        event['choices'][0]['delta'].get('content', '') for event in events
    ]
    assert len([piece for piece in pieces if piece]) > 3
    assert ''.join(pieces) == expected


def test_max_tokens(server, nano_folder):
    answer = post(server, nano_folder, PROMPTS[0], max_tokens=5)
    (choice,) = json.loads(answer)['choices']
    assert choice['message']['content'] == 'The image shows three shapes'
    assert choice['finish_reason'] == 'length'


@pytest.mark.parametrize(
    'settings', [dict(image=False), dict(stop=['shapes'])]
)
def test_unsupported_requests_fail(server, nano_folder, settings):
    """docs/serving.md says so; if this fails, change it there."""
    with pytest.raises(urllib.error.HTTPError, match='500'):
        post(server, nano_folder, PROMPTS[1], **settings)


def test_small_model(small_cfg, chat_llm, save_head, tmp_path):
    """FastVLM with the chat template of its tokenizer."""
    transformers = pytest.importorskip('transformers')
    if not hasattr(transformers, 'FastVlmForConditionalGeneration'):
        pytest.skip('this transformers has no FastVLM')
    small_cfg.model.prompt_template = 'chat'
    small_cfg.model.decoder.name_or_path = str(chat_llm('smollm2'))
    head = save_head(tmp_path / 'head.pth', 32)
    export_huggingface(small_cfg, tmp_path / 'head.pth', tmp_path / 'hf')
    ours = get_model(small_cfg, pretrained=False, device='cpu')
    ours.load_state_dict(head)
    size = ours.backbone.img_size
    (expected,) = ours.generate([make_sample([SCENE], PROMPTS[0], size)])
    assert len(expected.text) > 8
    with serve(tmp_path / 'hf', tmp_path / 'log') as address:
        count = len(expected.token_ids)
        answer = post(address, tmp_path / 'hf', PROMPTS[0], max_tokens=count)
        (choice,) = json.loads(answer)['choices']
        assert choice['message']['content'].strip() == expected.text.strip()
        # without an image, which Blip2ForConditionalGeneration requires
        answer = post(
            address, tmp_path / 'hf', PROMPTS[0], image=False, max_tokens=4
        )
        assert json.loads(answer)['choices'][0]['message']['content']
