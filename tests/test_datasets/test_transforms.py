# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Captions cleaned as BLIP does, questions drawn by place, samples packed."""

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from minigpt4.datasets import (
    CleanCaption,
    DrawQuestion,
    LoadImages,
    PackSample,
    SampleError,
)
from minigpt4.prompts import Turn

QUESTIONS = ('one', 'two', 'three', 'four')


@pytest.mark.parametrize(
    'raw, clean',
    [
        ('A Man, riding A HORSE.', 'a man, riding a horse'),
        ('.a!b"c(d)e*f#g:h;i~j', 'a b c d e f g h i j'),
        ("rock-'n'-roll, 50% of $3 & [x] {y} <z>?",) * 2,
        ('  two   spaces \t\n here \n', 'two spaces here'),
        ('wait... what!!!', 'wait what'),
        ('Ünï © 猫', 'ünï © 猫'),
    ],
)
def test_caption_is_cleaned(raw, clean):
    assert CleanCaption().clean(raw) == clean


def test_caption_is_cut_to_words():
    words = [f'w{i}' for i in range(60)]
    assert CleanCaption().clean(' '.join(words)).split() == words[:50]
    assert CleanCaption(max_words=3).clean('a, b c d') == 'a, b c'


@pytest.mark.parametrize(
    'text',
    ['', '   ', '...!', '\n', '" # "', '\t', '\u3000', '\u200b', '\ufeff'],
)
def test_empty_caption_is_a_sample_error(text):
    record = dict(id='tar 12', turns=[Turn('', text)])
    with pytest.raises(SampleError, match='tar 12 is empty'):
        CleanCaption()(record)


@pytest.mark.parametrize('text', ['cut \ud83d', 'a\0b', '\x1b[3m', 5, None])
def test_caption_that_no_tokenizer_takes_is_a_sample_error(text):
    """transformers #8886, tiktoken #82."""
    with pytest.raises(SampleError, match='the caption of tar 12 ') as error:
        CleanCaption()(dict(id='tar 12', turns=[Turn('', text)]))
    assert error.value.reason == 'caption cannot be used'


def test_byte_order_mark_is_no_part_of_a_caption():
    record = dict(turns=[Turn('', '\ufeffA dog.\r\n')])
    assert CleanCaption()(record)['turns'] == [Turn('', 'a dog')]


def test_cleaning_touches_answers_alone():
    record = dict(turns=[Turn('Why?!', 'Because.')], more=1)
    assert CleanCaption()(record) == dict(
        turns=[Turn('Why?!', 'because')], more=1
    )
    assert record['turns'] == [Turn('Why?!', 'Because.')]


def drawn(place, seed=0, turns=None):
    record = dict(draw=place, turns=turns or [Turn('', 'x')])
    return DrawQuestion(QUESTIONS, seed)(record)['turns']


def test_question_depends_on_seed_and_place_alone():
    places = [*range(400), 'laion/3/17']
    first = [drawn(place)[0].question for place in places]
    again = [drawn(place)[0].question for place in reversed(places)]
    assert first == again[::-1]
    assert first != [drawn(place, seed=1)[0].question for place in places]
    counts = Counter(first)
    assert set(counts) == set(QUESTIONS)
    assert min(counts.values()) > 60  # of 100 each
    assert drawn(0)[0].answer == 'x'


def test_questions_of_the_data_stay():
    turns = [Turn('mine?', 'yes'), Turn('', 'no')]
    assert drawn(3, turns=turns) == turns
    assert DrawQuestion(['q'])(dict()) == dict(turns=[Turn('q')])


def test_images_are_loaded_in_order_and_arrays_as_bgr(tmp_path):
    for name in ('red', 'blue'):
        Image.new('RGB', (9, 5), name).save(tmp_path / f'{name}.png')
    record = dict(images=[str(tmp_path / f'{n}.png') for n in ('red', 'blue')])
    loaded = LoadImages(size=8)(record)['images']
    assert [i.shape for i in loaded] == [(3, 8, 8)] * 2
    assert loaded[0][:, 0, 0].tolist() == [255, 0, 0]
    assert loaded[1][:, 0, 0].tolist() == [0, 0, 255]
    bgr = np.zeros((4, 4, 3), np.uint8)
    bgr[..., 2] = 255
    loaded = LoadImages(size=8)(dict(img=bgr))['images']
    assert torch.equal(loaded[0][:, 0, 0], torch.tensor([255, 0, 0]).byte())
    assert LoadImages()({})['images'] == []


def test_packing_keeps_the_named_fields():
    record = dict(
        id=5, images=[torch.zeros(3, 2, 2)], turns=[], task='t', draw=9
    )
    sample = PackSample(keys=('task', 'absent'))(record)
    assert sample.metainfo == dict(id=5, task='t')
    assert sample.turns == [Turn('')] and len(sample.images) == 1


def asked(questions):
    draw = DrawQuestion(questions)
    return {draw(dict(draw=i))['turns'][0].question for i in range(30)}


def test_one_text_is_one_question():
    """mmdetection #7878: a text was taken for a list of letters."""
    assert asked('What do you see?') == {'What do you see?'}


def test_questions_of_a_text_file(tmp_path):
    path = tmp_path / 'questions.txt'
    path.write_bytes('\ufeffOne?\r\n\r\n  Two? \r\n'.encode())
    assert asked(str(path)) == {'One?', 'Two?'}
    path.write_text('\n\n')
    with pytest.raises(ValueError, match='questions.txt: there is none'):
        DrawQuestion(str(path))
    with pytest.raises(FileNotFoundError, match='one question per line'):
        DrawQuestion(str(tmp_path / 'none.txt'))


@pytest.mark.parametrize(
    'questions, message',
    [
        ([], 'there is none; expected at least one'),
        ('', 'question 1 of .* is empty'),
        (['q', ' '], 'question 2 of .* is empty'),
        (['q', None], 'question 2 of .* is null'),
        (['q', 5], 'question 2 of .* is a number'),
        ([['q']], 'question 1 of .* is a list'),
        (['\ud83d'], 'question 1 of .* half a character'),
        (None, 'are null; expected a list of texts'),
        (5, 'are a number'),
        ({'q': 1}, 'are an object'),
    ],
)
def test_what_cannot_be_asked_is_refused(questions, message):
    with pytest.raises(ValueError, match=message):
        DrawQuestion(questions)


def test_one_name_is_one_key_to_pack():
    sample = PackSample(keys='task')(dict(images=[], task='t'))
    assert sample.metainfo == dict(task='t')
