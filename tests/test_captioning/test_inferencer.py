# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The Python API: get_model and inference_model, ours and MMPretrain's."""

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
def scenes():
    """Six scenes that the model describes correctly, and their images."""
    rng = random.Random(11)
    scenes = [sample_scene(rng, held_out=True) for _ in range(6)]
    return scenes, [render(scene, rng) for scene in scenes]


@pytest.fixture(scope='module')
def files(scenes, tmp_path_factory):
    folder = tmp_path_factory.mktemp('images')
    paths = []
    for i, image in enumerate(scenes[1]):
        image.save(folder / f'{i}.png')
        paths.append(str(folder / f'{i}.png'))
    return paths


def test_mmpretrain_lists_our_models():
    names = mmpretrain.list_models('minigpt-4*')
    assert NAME in names and 'minigpt-4_vicuna-7b_caption' in names
    assert mmpretrain.list_models(task='Image Caption')


def test_our_config_replaces_that_of_mmpretrain():
    from mmpretrain.apis.model import ModelHub

    config = ModelHub.get('minigpt-4_vicuna-7b_caption').config
    assert config.model.type is minigpt4.models.MiniGPT4
    assert config.model.decoder.name_or_path == 'Vision-CAIR/vicuna-7b'


def test_a_missing_llm_is_one_sentence(monkeypatch, tmp_path):
    with pytest.raises(FileNotFoundError, match='does not exist'):
        mmpretrain.get_model(
            'minigpt-4_vicuna-7b_caption',
            backbone=dict(checkpoint=None, arch='nano'),
            neck=dict(checkpoint=None, in_channels=128),
            decoder=dict(name_or_path=str(tmp_path / 'nowhere')),
        )


def test_mmpretrain_and_our_function_give_equal_answers(model, files, scenes):
    for file, scene in zip(files[:3], scenes[0], strict=False):
        expected = mmpretrain.inference_model(model, file)
        found = minigpt4.inference_model(model, file)
        assert (
            found == expected == {'pred_caption': grammar.description(scene)}
        )


def test_a_model_is_built_by_name(files, scenes):
    answer = mmpretrain.inference_model(NAME, files[0])
    assert answer == {'pred_caption': grammar.description(scenes[0][0])}


def test_arrays_are_read_as_bgr(model, scenes):
    """OpenMMLab's arrays are BGR (MMPretrain defect M13)."""
    array = np.asarray(scenes[1][0])[..., ::-1]
    for inference in (mmpretrain.inference_model, minigpt4.inference_model):
        assert inference(model, array) == {
            'pred_caption': grammar.description(scenes[0][0])
        }


def test_a_batch_gives_the_answers_of_single_images(model, scenes):
    prompts = [
        'Describe this image in detail.',
        'Write a poem.',
        'Count the shapes.',
        'Who are you?',
        'Write an advertisement.',
        'How many shapes are there?',
    ]
    singles = [
        minigpt4.inference_model(model, image, prompt=prompt)
        for image, prompt in zip(scenes[1], prompts, strict=True)
    ]
    assert len({s['pred_caption'] for s in singles}) > 3
    for batch_size in (2, 6):
        assert (
            minigpt4.inference_model(
                model, scenes[1], prompt=prompts, batch_size=batch_size
            )
            == singles
        )


def test_answers_have_no_template_text(model, scenes):
    for result in minigpt4.inference_model(model, scenes[1]):
        for mark in ('###', 'Human', 'Assistant', '<Img>', '</s>'):
            assert mark not in result['pred_caption']


def test_answers_repeat(model, files):
    answers = [minigpt4.inference_model(model, files[1]) for _ in range(2)]
    assert answers[0] == answers[1]


def test_generation_settings(model, files):
    short = minigpt4.inference_model(model, files[0], max_new_tokens=4)
    full = minigpt4.inference_model(model, files[0])
    assert full['pred_caption'].startswith(short['pred_caption'])
    assert len(short['pred_caption']) < len(full['pred_caption'])
    beams = minigpt4.inference_model(model, files[0], num_beams=3)
    assert beams == full
    torch.manual_seed(0)
    sampled = minigpt4.inference_model(
        model, files[0], do_sample=True, temperature=8.0, max_new_tokens=20
    )
    assert sampled != full


def test_an_unreadable_image_of_a_list_is_an_error_in_its_result(
    model, files, tmp_path
):
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


def test_numbers_of_prompts_and_images_must_match(model, files):
    with pytest.raises(ValueError, match='2 prompts for 1 images'):
        minigpt4.inference_model(model, files[:1], prompt=['a', 'b'])
    with pytest.raises(ValueError, match='2 image slots .* but 1 images'):
        minigpt4.inference_model(
            model, files[0], prompt='<ImageHere> and <ImageHere>?'
        )


def test_every_type_of_image_gives_the_same_answer(model, scenes, tmp_path):
    truth = {'pred_caption': grammar.description(scenes[0][0])}
    image = scenes[1][0]
    path = tmp_path / 'image.png'
    image.convert('RGBA').save(path)
    for source in (
        image,
        path,
        str(path),
        path.read_bytes(),
        image.resize((200, 200), Image.Resampling.BICUBIC),
    ):
        assert minigpt4.inference_model(model, source) == truth


@pytest.mark.parametrize(
    ('arguments', 'error', 'message'),
    [
        (('minigpt-4_nano',), ValueError, 'did you mean minigpt-4_nano_capt'),
        (('no-such-thing',), ValueError, 'there is no model .*there are'),
        (('gone.py',), FileNotFoundError, 'config gone.py does not exist'),
        ((5,), ValueError, 'the model is a int'),
        ((NAME, 'gone.pth'), FileNotFoundError, 'gone.pth does not exist'),
        ((NAME, '/'), ValueError, 'checkpoint / is not a reg'),
        ((NAME, True, 'gpu'), ValueError, "'gpu'; expected cpu, cuda"),
        ((NAME, True, 'cuda:99'), ValueError, 'torch finds .* GPUs; give'),
        ((NAME, True, 5.5), ValueError, 'expected cpu, cuda'),
    ],
)
def test_get_model_refuses_wrong_arguments_before_building(
    arguments, error, message
):
    with pytest.raises(error, match=message) as raised:
        minigpt4.get_model(*arguments)
    assert '\n' not in str(raised.value)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('x = 1', 'has no model'),
        ('model = 5', 'has no model'),
        ('model = dict(', 'is not a config'),
        ('model = dict(type="minigpt4.MiniGPT4")', 'no trained projection'),
    ],
)
def test_configs_without_a_model_or_projection_are_refused(
    tmp_path, text, message
):
    file = tmp_path / 'a.py'
    file.write_text(text)
    with pytest.raises(ValueError, match=message) as raised:
        minigpt4.get_model(str(file))
    assert str(file) in str(raised.value)
