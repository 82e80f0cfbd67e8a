# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The small model with its real parts and its shipped projection."""

import json
import os
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.structures import BaseDataElement

from minigpt4.captioning.inferencer import make_sample
from minigpt4.evaluation import match_run
from minigpt4.generation.hf_generate import hf_generate
from minigpt4.loading import get_model
from minigpt4.models.packing import build_inputs
from minigpt4.prompts import Turn
from minigpt4.weights.shipped import shipped_or_local
from minigpt4_cli import main as cli

pytestmark = pytest.mark.slow
NAME = 'minigpt-4_small_caption'
CONFIG = Path(__file__).parents[1] / f'configs/minigpt4/{NAME}.py'.replace(
    '-', '_'
)
CHECKPOINT = 'small/minigpt4_small.pth'
TOKENS = 40  # of the answers that are compared


@pytest.fixture(scope='module')
def model(small_parts):
    """The model of the hub; tests must not change it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('MINIGPT4_CACHE', str(small_parts.cache))
        return get_model(NAME, device='cpu')


@pytest.fixture(scope='module')
def photos() -> Path:
    """The folder of test photographs with their captions."""
    folder = os.environ.get('MINIGPT4_PHOTOS')
    if not folder:
        pytest.skip('MINIGPT4_PHOTOS does not name a folder of photographs')
    return Path(folder)


@pytest.fixture
def samples(model, photos):
    """Questions about three photographs."""
    files = sorted((photos / 'test').glob('*.jpg'))[:3]
    return [make_sample([f], model.prompt, model.image_size) for f in files]


@pytest.fixture
def small_cfg(small_cache) -> Config:
    """The config of the model, which a test may change."""
    return Config.fromfile(CONFIG)


def test_caption_of_a_photograph_ends(model, samples):
    for answer in model.generate(samples):
        assert answer.finished
        assert len(answer.text.split()) >= 5
        assert '<|im_' not in answer.text
        assert answer.text.isprintable()


def test_captions_prefer_the_right_image(model, photos, monkeypatch, tmp_path):
    monkeypatch.setattr(match_run, 'load_model', lambda *args: model)
    arguments = (
        *('eval', 'match', '--model', NAME, '--template', 'bare', '-q'),
        *('--annotations', photos / 'captions_test.json'),
        *('--images', photos / 'test', '--limit', '10', '-o', tmp_path),
    )
    assert cli.main([str(argument) for argument in arguments]) == 0
    summary = json.loads((tmp_path / 'summary.json').read_text())
    assert summary['images'] == 10
    assert summary['captions'] >= 50
    scores = {key: v['value'] for key, v in summary['scores'].items()}
    assert scores['preferred'] >= 0.8
    assert scores['loss'] < scores['other_loss']


@torch.no_grad()
def test_engine_gives_the_ids_of_transformers(model, samples):
    settings = {**model.generation, 'max_new_tokens': TOKENS}
    answers = model.generate(samples, **settings)
    collator = model.collator(training=False)
    for sample, answer in zip(samples, answers, strict=True):
        inputs = build_inputs(
            [collator.tokenize(sample)], model.num_image_tokens, 'left'
        )
        pixels = model.data_preprocessor.normalize(torch.stack(sample.images))
        (expected,) = hf_generate(
            model.decoder.llm,
            model.decoder.tokenizer,
            model.embed_inputs(pixels, inputs),
            inputs.attention_mask,
            model.template.stop,
            stop_ids=model.stop_ids,
            **settings,
        )
        assert answer.token_ids == expected.token_ids
        assert answer.text == expected.text


def test_a_batch_gives_the_ids_of_single_samples(model, samples):
    questions = ('What is this?', model.prompt, 'Is it day or night?')
    batch = [
        BaseDataElement(images=sample.images, turns=[Turn(question)])
        for sample, question in zip(samples, questions, strict=True)
    ]
    answers = model.generate(batch, max_new_tokens=TOKENS)
    together = [answer.token_ids for answer in answers]
    alone = [
        model.generate([sample], max_new_tokens=TOKENS)[0].token_ids
        for sample in batch
    ]
    assert together == alone
    assert len({tuple(ids) for ids in together}) == 3


def test_error_of_int8_products(model, photos, small_parts, monkeypatch):
    """Loss and gradient of six captions; see docs/performance.md."""
    monkeypatch.setenv('MINIGPT4_CACHE', str(small_parts.cache))
    data = json.loads((photos / 'captions_test.json').read_text())
    captions = {a['image_id']: a['caption'] for a in data['annotations']}
    samples = []
    for image in data['images'][:6]:
        file = photos / 'test' / image['file_name']
        sample = make_sample([file], model.prompt, model.image_size)
        question = sample.turns[0].question
        sample.turns = [Turn(question, captions[image['id']])]
        samples.append(sample)
    losses, gradients = [], []
    rounded = get_model(NAME, device='cpu', decoder=dict(linear_dtype='int8'))
    for each in (model, rounded):
        (piece,) = each.collator(training=True)(samples)['pieces']
        loss = each(**each.data_preprocessor(piece), mode='loss')['loss']
        weight = each.head.layers[0].weight
        gradients += [torch.autograd.grad(loss, weight)[0].flatten()]
        losses.append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert torch.cosine_similarity(*gradients, dim=0) > 0.97


def refusal(cfg: Config) -> str:
    """The error of a model that loads the shipped projection."""
    with pytest.raises(ValueError) as error:
        get_model(
            cfg, pretrained=str(shipped_or_local(CHECKPOINT)), device='cpu'
        )
    message = str(error.value)
    assert '\n' not in message and message.endswith('.')
    return message


def test_another_backbone_is_refused(small_cfg):
    nano = Config.fromfile(CONFIG.with_name('minigpt_4_nano_caption.py'))
    small_cfg.model.backbone = nano.model.backbone
    message = refusal(small_cfg)
    assert 'EfficientNetLite' in message and 'EVAViT' in message


def test_another_grid_is_refused(small_cfg):
    small_cfg.model.neck.grid = 3
    assert 'another neck' in refusal(small_cfg)


def test_another_llm_is_refused(small_cfg, chat_llm_dir):
    small_cfg.model.decoder.name_or_path = str(chat_llm_dir('smollm2'))
    assert 'LLM' in refusal(small_cfg)


def test_another_template_is_refused(small_cfg):
    small_cfg.model.prompt_template = 'vicuna_v0'
    message = refusal(small_cfg)
    assert 'trained with the template chat' in message
    assert 'vicuna_v0' in message
