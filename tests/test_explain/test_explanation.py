# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""All measures of an answer, and their JSON."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from minigpt4.explain.answer import ExplainedAnswer
from minigpt4.explain.explanation import Explanation, explain, weighted_maps
from minigpt4.explain.image_regions import ImageRegions
from minigpt4.explain.omitted_tokens import OmissionLosses
from minigpt4.explain.token_words import NearWord
from minigpt4.explain.words import Word
from minigpt4.registry import MODELS

CONFIGS = Path(__file__).parents[2] / 'configs' / 'minigpt4'


def test_measures_of_the_nano_model(nano_explanation):
    e = nano_explanation
    words = [word.text for word in e.answer.words]
    assert words[:5] == ['The', 'image', 'shows', 'three', 'shapes']
    # the place "left" depends on one query
    left = words.index('left')
    query = int(e.losses.increase[left].argmax())
    assert float(e.losses.increase[left, query]) > 3
    # so does the colour of the star: its nearest word is "blue", and it
    # reads the quadrant of the star
    blue = words.index('blue')
    query = int(e.losses.increase[blue].argmax())
    assert e.near_words[query][0].text == 'blue'
    assert float(e.regions.maps[query, :4, 4:].sum()) > 0.5
    grammar = e.losses.increase_without_image[words.index('is')]
    assert abs(float(grammar)) < 0.1


def test_json_of_an_explanation(nano_explanation):
    data = json.loads(json.dumps(nano_explanation.to_json(), allow_nan=False))
    words, tokens = data['words'], data['image_tokens']
    n_words, n_tokens = len(words['texts']), len(tokens['names'])
    answer = ''.join(
        before + text
        for before, text in zip(words['blanks'], words['texts'], strict=True)
    )
    assert answer == data['answer'] and data['finished'] is True
    assert n_tokens == 22 and data['grid'] == [8, 8]
    for numbers, shape in (
        (words['tokens'], (n_words,)),
        (words['attention'], (n_words, n_tokens)),
        (words['attention_to_image'], (n_words,)),
        (words['attention_maps'], (n_words, 8, 8)),
        (words['loss'], (n_words,)),
        (words['loss_increase'], (n_words, n_tokens)),
        (words['loss_increase_without_image'], (n_words,)),
        (words['loss_increase_maps'], (n_words, 8, 8)),
        (tokens['maps'], (n_tokens, 8, 8)),
        (tokens['layer_maps'], (len(data['layers']), n_tokens, 8, 8)),
        (tokens['class_share'], (len(data['layers']), n_tokens)),
    ):
        assert torch.tensor(numbers).shape == shape
    for maps in (words['attention_maps'], tokens['maps']):
        sums = torch.tensor(maps, dtype=torch.float64).sum((1, 2))
        assert torch.allclose(sums, torch.ones_like(sums), atol=1e-3)
    sums = torch.tensor(words['attention']).sum(1)
    assert torch.allclose(sums, torch.ones_like(sums), atol=1e-3)
    assert all(len(row) == 5 for row in tokens['near_words'])


def test_json_has_the_numbers_of_the_measures():
    """Two words, of one and of two tokens; two image tokens, two cells."""
    data = Explanation(
        ExplainedAnswer(
            'A dog',
            [Word('A', '', 0, 1), Word('dog', ' ', 1, 3)],
            False,
            None,
        ),
        ImageRegions(
            'cross-attention',
            ['query 1', 'query 2'],
            (1, 2),
            torch.eye(2).reshape(2, 1, 2),
            [3],
            torch.eye(2).reshape(1, 2, 1, 2),
            torch.tensor([[0.5, 0.25]]),
        ),
        [[NearWord('cat', 0.123456)], [NearWord('dog', 1.0)]],
        torch.tensor([[0.25, 0.75], [1 / 3, 2 / 3]]),
        torch.tensor([0.5, 0.000123456]),
        OmissionLosses(
            torch.tensor([1.0, 2.0]).double(),
            torch.tensor([[1.5, 1.0], [3.0, 2.5]]).double(),
            torch.tensor([4.0, 2.5]).double(),
        ),
    ).to_json()
    assert data == dict(
        format='minigpt4 explain 1',
        answer='A dog',
        finished=False,
        grid=[1, 2],
        regions='cross-attention',
        layers=[3],
        image_tokens=dict(
            names=['query 1', 'query 2'],
            near_words=[[['cat', 0.1235]], [['dog', 1]]],
            maps=[[[1, 0]], [[0, 1]]],
            layer_maps=[[[[1, 0]], [[0, 1]]]],
            class_share=[[0.5, 0.25]],
        ),
        words=dict(
            texts=['A', 'dog'],
            blanks=['', ' '],
            tokens=[1, 2],
            attention=[[0.25, 0.75], [0.3333, 0.6667]],
            attention_to_image=[0.5, 0.0001235],
            attention_maps=[[[0.25, 0.75]], [[0.3333, 0.6667]]],
            loss=[1, 2],
            loss_increase=[[0.5, 2], [-1, 0.5]],
            loss_increase_without_image=[3, 0.5],
            # 0.5 and 2 of 2.5; a loss that shrinks has no place
            loss_increase_maps=[[[0.2, 0.8]], [[0, 1]]],
        ),
    )


def test_numbers_that_are_not_finite_are_null(nano_explanation):
    losses = nano_explanation.losses
    complete = losses.complete.clone()
    complete[0] = float('nan')
    nano_explanation.losses = losses._replace(complete=complete)
    try:
        data = nano_explanation.to_json()
    finally:
        nano_explanation.losses = losses
    assert data['words']['loss'][0] is None
    json.dumps(data, allow_nan=False)


def test_maps_of_words_are_weighted_means():
    maps = torch.tensor([[[1.0, 0.0]], [[0.5, 0.5]], [[0.0, 0.0]]])
    regions = ImageRegions('grid', ['a', 'b', 'prefix'], (1, 2), maps)
    weights = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.1, 0.9], [0.0, 0.0, 1.0]])
    expected = torch.tensor([[[0.75, 0.25]], [[0.5, 0.5]], [[0.0, 0.0]]])
    assert torch.allclose(weighted_maps(weights, regions), expected)
    none = ImageRegions('none', ['a'], None, torch.zeros(1, 0, 0))
    assert weighted_maps(torch.ones(1, 1), none) is None


NECKS = {
    'Q-Former': dict(),
    'PatchMerge': dict(type='minigpt4.PatchMerge', merge=2),
    'PatchTokens': dict(type='minigpt4.PatchTokens', keep_global=True),
}


@pytest.mark.parametrize('neck', NECKS)
def test_explanations_with_each_neck(build_tiny, make_sample, neck):
    model = build_tiny(neck=NECKS[neck], head=dict(num_prefix_tokens=2))
    steps: list = []
    result = explain(
        model.eval(),
        make_sample([0], 'what is'),
        max_new_tokens=4,
        num_near_words=2,
        progress=lambda *step: steps.append(step),
    )
    number = model.num_image_tokens
    assert steps == [(number + 2, number + 2)]
    assert len(result.regions.names) == len(result.near_words) == number
    assert {len(row) for row in result.near_words} == {2}
    json.dumps(result.to_json(), allow_nan=False)


@pytest.mark.parametrize('base', ['vicuna_7b', 'vicuna_13b', 'llama2_7b'])
def test_explanations_with_the_parts_of_the_large_models(
    base, tiny_cfg, make_sample
):
    """The parts of each config, at a tiny size, of the same classes."""
    file = CONFIGS / '_base_' / f'{base}.py'
    if not file.exists():
        pytest.skip(f'there is no config {file.name}')
    cfg = Config.fromfile(file).model
    tiny = dict(tiny_cfg)
    for part in ('backbone', 'neck', 'head', 'decoder'):
        assert cfg[part]['type'] is not None
        tiny[part] = {**tiny_cfg[part], 'type': cfg[part]['type']}
        if 'merge' in cfg[part] or 'PatchMerge' in str(cfg[part]['type']):
            tiny[part] = dict(type=cfg[part]['type'], merge=2)
    tiny['prompt_template'] = cfg['prompt_template']
    torch.manual_seed(0)
    model = MODELS.build(tiny).eval()
    result = explain(model, make_sample([0], 'what'), max_new_tokens=4)
    sums = result.regions.maps.sum((1, 2))
    assert torch.allclose(sums, torch.ones_like(sums))
    assert torch.isfinite(result.losses.increase).all()


@pytest.mark.parametrize('family', ['smollm2', 'gemma'])
def test_explanations_with_chat_templates(build_chat, make_sample, family):
    model = build_chat(family).eval()
    sample = make_sample([0], 'What is in this image?')
    result = explain(model, sample, max_new_tokens=4)
    texts = (word.before + word.text for word in result.answer.words)
    assert ''.join(texts).strip() == result.answer.text
    assert torch.isfinite(result.losses.increase_without_image).all()
