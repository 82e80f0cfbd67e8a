# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A checkpoint loads with the vision parts that it was trained with only."""

import copy
import json

import pytest
import torch
from mmengine.runner import load_checkpoint

from minigpt4.llm.fingerprint import decode_fingerprint, encode_fingerprint
from minigpt4.models import CachedQueries
from minigpt4.models.vision_fingerprint import compute_vision_fingerprint

LITE = dict(type='minigpt4.EfficientNetLite', arch='lite0', img_size=64)
WIDE = dict(arch=dict(width=32, depth=1, num_heads=2, mlp_width=48))
NORMALIZER = dict(type='minigpt4.ImageNormalizer', mean=[0.5] * 3)


def tokens(**settings):
    return dict(type='minigpt4.PatchTokens', grid=2, **settings)


def load(model, state, tmp_path):
    torch.save(dict(state_dict=state), tmp_path / 'a.pth')
    load_checkpoint(model, str(tmp_path / 'a.pth'), map_location='cpu')


@pytest.mark.parametrize(
    'trained, used, message',
    [
        ({}, dict(backbone=WIDE), 'other weights of the backbone EVAViT'),
        ({}, dict(backbone=dict(img_size=42)), r'image size 28, not 42'),
        (
            {},
            dict(data_preprocessor=NORMALIZER),
            r'another normalisation \(mean and std \[\[0.48.*, not \[\[0.5',
        ),
        (
            {},
            dict(neck=dict(depth=1)),
            'other weights of the neck QFormer',
        ),
        (
            dict(neck=tokens()),
            dict(neck=dict(type='minigpt4.PatchTokens', keep_global=True)),
            'another neck .PatchTokens, number of tokens 4, not 5.',
        ),
        (
            dict(backbone=LITE, neck=tokens()),
            dict(backbone=LITE | dict(arch='lite1'), neck=tokens()),
            'other weights of the backbone EfficientNetLite',
        ),
        (
            dict(backbone=LITE, neck=tokens()),
            dict(
                neck=tokens(),
                backbone=dict(
                    type='minigpt4.EVAViT',
                    arch=dict(width=1280, depth=1, num_heads=2, mlp_width=8),
                    img_size=28,
                ),
            ),
            'the backbone EfficientNetLite, but this model has EVAViT',
        ),
    ],
)
def test_other_vision_parts_are_refused(
    build_tiny, tmp_path, trained, used, message
):
    name = 'head.layers.0.weight'
    state = copy.deepcopy(build_tiny(**trained).state_dict())
    state[name] += 1
    other = build_tiny(**used)
    before = copy.deepcopy(other.state_dict()[name])
    with pytest.raises(ValueError, match=message) as error:
        load(other, state, tmp_path)
    text = str(error.value)
    assert 'a.pth was trained with' in text and '\n' not in text
    assert 'model.check_vision=False' in text
    assert torch.equal(other.state_dict()[name], before)
    unchecked = build_tiny(**used, check_vision=False)
    load(unchecked, state, tmp_path)
    assert torch.equal(unchecked.state_dict()[name], state[name])


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_rounding_of_frozen_weights_is_accepted(build_tiny, tmp_path, dtype):
    model = build_tiny()
    state = copy.deepcopy(model.state_dict())
    path = str(tmp_path / 'backbone.pth')
    torch.save(model.backbone.state_dict(), path)
    rounded = build_tiny(backbone=dict(checkpoint=path))
    rounded.backbone.to(getattr(torch, dtype))
    load(rounded, state, tmp_path)


def test_trained_parts_are_not_sampled(build_tiny, tmp_path):
    model = build_tiny(neck=dict(frozen=False))
    state = copy.deepcopy(model.state_dict())
    model.neck.query_tokens.data += 1
    load(model, state, tmp_path)
    name = 'neck.query_tokens'
    assert torch.equal(model.state_dict()[name], state[name])


def test_queries_of_a_cache_have_the_fingerprint_of_their_maker(
    build_tiny, tmp_path
):
    model = build_tiny()
    made_by = compute_vision_fingerprint(
        model.backbone, model.neck, model.data_preprocessor
    )
    assert json.loads(json.dumps(made_by)) == made_by
    neck = dict(type='minigpt4.CachedQueries', num_tokens=3, channels=24)
    cached = build_tiny(
        backbone=None, neck=neck | dict(vision_fingerprint=made_by)
    )
    state = copy.deepcopy(cached.state_dict())
    load(model, state, tmp_path)
    with pytest.raises(ValueError, match='image size 28, not 42'):
        load(build_tiny(backbone=dict(img_size=42)), state, tmp_path)
    # a cache of an earlier version
    old = build_tiny(backbone=None, neck=neck)
    state = copy.deepcopy(old.state_dict())
    assert 'vision' not in decode_fingerprint(state['llm_fingerprint'])
    load(build_tiny(backbone=dict(img_size=42)), state, tmp_path)
    assert compute_vision_fingerprint(None, CachedQueries(3, 24), None) is None


def test_an_earlier_checkpoint_loads(build_tiny, tmp_path):
    state = copy.deepcopy(build_tiny().state_dict())
    fingerprint = decode_fingerprint(state['llm_fingerprint'])
    del fingerprint['vision']
    state['llm_fingerprint'] = encode_fingerprint(fingerprint)
    load(build_tiny(backbone=dict(img_size=42)), state, tmp_path)


def test_a_damaged_fingerprint_is_refused(build_tiny, tmp_path):
    model = build_tiny()
    state = copy.deepcopy(model.state_dict())
    fingerprint = decode_fingerprint(state['llm_fingerprint'])
    fingerprint['vision'] = [1]
    state['llm_fingerprint'] = encode_fingerprint(fingerprint)
    with pytest.raises(ValueError, match='damaged .vision is no object'):
        load(model, state, tmp_path)


def test_parts_without_memory_have_none(build_tiny):
    model = build_tiny()
    with torch.device('meta'):
        neck = type(model.neck)()
    assert compute_vision_fingerprint(model.backbone, neck, None) is None
