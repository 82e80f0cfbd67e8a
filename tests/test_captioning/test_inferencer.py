# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Captioning by name, through MMPretrain's functions and through ours."""

import random

import mmpretrain
import numpy as np
import pytest
import torch
from PIL import Image

import minigpt4
from minigpt4.datasets import SampleError
from minigpt4.nano import grammar
from minigpt4.nano.world import render, sample_scene

NAME = 'minigpt-4_nano_caption'


@pytest.fixture(scope='module')
def model():
    return mmpretrain.get_model(NAME, pretrained=True)


@pytest.fixture(scope='module')
def scenes():
    rng = random.Random(11)
    scenes = [sample_scene(rng, held_out=True) for _ in range(6)]
    return scenes, [render(scene, rng) for scene in scenes]


@pytest.fixture(scope='module')
def files(scenes, tmp_path_factory):
    folder = tmp_path_factory.mktemp('pictures')
    paths = []
    for i, picture in enumerate(scenes[1]):
        picture.save(folder / f'{i}.png')
        paths.append(str(folder / f'{i}.png'))
    return paths


def test_names_are_known_to_mmpretrain():
    names = mmpretrain.list_models('minigpt-4*')
    assert NAME in names and 'minigpt-4_vicuna-7b_caption' in names
    assert mmpretrain.list_models(task='Image Caption')


def test_our_config_takes_the_place_of_mmpretrains():
    from mmpretrain.apis.model import ModelHub

    config = ModelHub.get('minigpt-4_vicuna-7b_caption').config
    assert config.model.type is minigpt4.models.MiniGPT4
    assert config.model.decoder.name_or_path == 'Vision-CAIR/vicuna-7b'


def test_without_vicuna_one_sentence_says_what_to_do(monkeypatch, tmp_path):
    with pytest.raises(FileNotFoundError, match='does not exist'):
        mmpretrain.get_model(
            'minigpt-4_vicuna-7b_caption',
            backbone=dict(checkpoint=None, arch='nano'),
            neck=dict(checkpoint=None, in_channels=128),
            decoder=dict(name_or_path=str(tmp_path / 'nowhere')),
        )


def test_mmpretrain_and_we_answer_the_same(model, files, scenes):
    for file, scene in zip(files[:3], scenes[0], strict=False):
        theirs = mmpretrain.inference_model(model, file)
        ours = minigpt4.inference_model(model, file)
        assert theirs == ours == {'pred_caption': grammar.description(scene)}


def test_by_name(files, scenes):
    answer = mmpretrain.inference_model(NAME, files[0])
    assert answer == {'pred_caption': grammar.description(scenes[0][0])}


def test_red_stays_red_for_arrays(model, scenes):
    """OpenMMLab's arrays are BGR (MMPretrain defect M13)."""
    picture = np.asarray(scenes[1][0])[..., ::-1]
    for inference in (mmpretrain.inference_model, minigpt4.inference_model):
        assert inference(model, picture) == {
            'pred_caption': grammar.description(scenes[0][0])
        }


@pytest.mark.parametrize('batch_size', [1, 2, 6])
def test_a_batch_gives_the_single_answers(model, scenes, batch_size):
    prompts = [
        'Describe this image in detail.',
        'Write a poem.',
        'Count the shapes.',
        'Who are you?',
        'Write an advertisement.',
        'How many shapes are there?',
    ]
    singles = [
        minigpt4.inference_model(model, picture, prompt=prompt)
        for picture, prompt in zip(scenes[1], prompts, strict=True)
    ]
    assert (
        minigpt4.inference_model(
            model, scenes[1], prompt=prompts, batch_size=batch_size
        )
        == singles
    )
    assert len({s['pred_caption'] for s in singles}) > 3


def test_nothing_of_the_template_leaks(model, scenes):
    for result in minigpt4.inference_model(model, scenes[1]):
        for mark in ('###', 'Human', 'Assistant', '<Img>', '</s>'):
            assert mark not in result['pred_caption']


def test_answers_repeat(model, files):
    assert (
        len(
            {
                minigpt4.inference_model(model, files[1])['pred_caption']
                for _ in range(3)
            }
        )
        == 1
    )


def test_generation_settings(model, files):
    short = minigpt4.inference_model(model, files[0], max_new_tokens=4)
    whole = minigpt4.inference_model(model, files[0])
    assert whole['pred_caption'].startswith(short['pred_caption'])
    assert len(short['pred_caption']) < len(whole['pred_caption'])
    beams = minigpt4.inference_model(model, files[0], num_beams=3)
    assert beams == whole
    torch.manual_seed(0)
    sampled = minigpt4.inference_model(
        model, files[0], do_sample=True, temperature=8.0, max_new_tokens=20
    )
    assert sampled != whole


def test_a_bad_image_in_a_list_is_reported_not_fatal(model, files, tmp_path):
    broken = tmp_path / 'broken.jpg'
    broken.write_bytes(b'<html>404</html>')
    results = minigpt4.inference_model(
        model, [files[0], str(broken), files[1]]
    )
    assert results[1]['pred_caption'] is None
    assert 'broken.jpg cannot be read as an image' in results[1]['error']
    assert [results[0], results[2]] == minigpt4.inference_model(
        model, [files[0], files[1]]
    )
    with pytest.raises(SampleError, match='broken.jpg cannot be read'):
        minigpt4.inference_model(model, str(broken))


def test_prompts_and_images_are_counted(model, files):
    with pytest.raises(ValueError, match='2 prompts for 1 images'):
        minigpt4.inference_model(model, files[:1], prompt=['a', 'b'])
    with pytest.raises(ValueError, match='2 image slots .* but 1 images'):
        minigpt4.inference_model(
            model, files[0], prompt='<ImageHere> and <ImageHere>?'
        )


def test_kinds_of_images(model, scenes, tmp_path):
    truth = {'pred_caption': grammar.description(scenes[0][0])}
    picture = scenes[1][0]
    path = tmp_path / 'picture.png'
    picture.convert('RGBA').save(path)
    for image in (
        picture,
        path,
        str(path),
        path.read_bytes(),
        picture.resize((200, 200), Image.Resampling.BICUBIC),
    ):
        assert minigpt4.inference_model(model, image) == truth


@pytest.mark.parametrize(
    ('arguments', 'error', 'said'),
    [
        (('minigpt-4_nano',), ValueError, 'did you mean minigpt-4_nano_capt'),
        (('no-such-thing',), ValueError, 'there is no model .*there are'),
        (('gone.py',), FileNotFoundError, 'config gone.py does not exist'),
        ((5,), ValueError, 'the model is a int'),
        ((NAME, 'gone.pth'), FileNotFoundError, 'gone.pth does not exist'),
        ((NAME, '/'), ValueError, 'checkpoint / is no regular file'),
        ((NAME, True, 'gpu'), ValueError, "'gpu'; expected cpu, cuda"),
        ((NAME, True, 'cuda:99'), ValueError, 'torch sees .* GPUs; give'),
        ((NAME, True, 5.5), ValueError, 'expected cpu, cuda'),
    ],
)
def test_get_model_refuses_before_it_builds(arguments, error, said):
    with pytest.raises(error, match=said) as raised:
        minigpt4.get_model(*arguments)
    assert '\n' not in str(raised.value)


@pytest.mark.parametrize(
    ('text', 'said'),
    [
        ('x = 1', 'has no model'),
        ('model = 5', 'has no model'),
        ('model = dict(', 'is not a config'),
        ('model = dict(type="minigpt4.MiniGPT4")', 'no trained projection'),
    ],
)
def test_configs_without_a_model_or_projection(tmp_path, text, said):
    file = tmp_path / 'a.py'
    file.write_text(text)
    with pytest.raises(ValueError, match=said) as raised:
        minigpt4.get_model(str(file))
    assert str(file) in str(raised.value)
