# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Transforms clean captions, choose questions and pack samples."""

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from minigpt4.datasets import (
    CleanCaption,
    DrawFlip,
    DrawQuestion,
    FormatQuestion,
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


def test_caption_is_cut_to_the_maximum_number_of_words():
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
def test_caption_that_cannot_be_tokenised_is_a_sample_error(text):
    """transformers #8886, tiktoken #82."""
    with pytest.raises(SampleError, match='the caption of tar 12 ') as error:
        CleanCaption()(dict(id='tar 12', turns=[Turn('', text)]))
    assert error.value.reason == 'caption cannot be used'


def test_byte_order_mark_is_removed_from_a_caption():
    record = dict(turns=[Turn('', '\ufeffA dog.\r\n')])
    assert CleanCaption()(record)['turns'] == [Turn('', 'a dog')]


def test_cleaning_changes_only_answers():
    record = dict(turns=[Turn('Why?!', 'Because.')], more=1)
    assert CleanCaption()(record) == dict(
        turns=[Turn('Why?!', 'because')], more=1
    )
    assert record['turns'] == [Turn('Why?!', 'Because.')]


def choose(index, seed=0, turns=None):
    record = dict(sample_index=index, turns=turns or [Turn('', 'x')])
    return DrawQuestion(QUESTIONS, seed)(record)['turns']


def test_question_depends_only_on_seed_and_sample_index():
    indices = [*range(400), 'laion/3/17']
    first = [choose(index)[0].question for index in indices]
    again = [choose(index)[0].question for index in reversed(indices)]
    assert first == again[::-1]
    assert first != [choose(index, seed=1)[0].question for index in indices]
    counts = Counter(first)
    assert set(counts) == set(QUESTIONS)
    assert min(counts.values()) > 60  # of 100 each
    assert choose(0)[0].answer == 'x'


def test_question_of_the_record_is_kept():
    turns = [Turn('mine?', 'yes'), Turn('', 'no')]
    assert choose(3, turns=turns) == turns
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


def test_packing_keeps_the_given_keys():
    record = dict(
        id=5, images=[torch.zeros(3, 2, 2)], turns=[], task='t', sample_index=9
    )
    sample = PackSample(keys=('task', 'absent'))(record)
    assert sample.metainfo == dict(id=5, task='t')
    assert sample.turns == [Turn('')] and len(sample.images) == 1


def all_choices(questions):
    choose = DrawQuestion(questions)
    return {
        choose(dict(sample_index=i))['turns'][0].question for i in range(30)
    }


def test_one_string_is_one_question():
    """mmdetection #7878: a string was used as a list of letters."""
    assert all_choices('What do you see?') == {'What do you see?'}


def test_questions_are_read_from_a_text_file(tmp_path):
    path = tmp_path / 'questions.txt'
    path.write_bytes('\ufeffOne?\r\n\r\n  Two? \r\n'.encode())
    assert all_choices(str(path)) == {'One?', 'Two?'}
    path.write_text('\n\n')
    with pytest.raises(ValueError, match='questions.txt: no question found'):
        DrawQuestion(str(path))
    with pytest.raises(FileNotFoundError, match='one question per line'):
        DrawQuestion(str(tmp_path / 'none.txt'))


@pytest.mark.parametrize(
    'questions, message',
    [
        ([], 'no question found; expected at least one'),
        ('', 'question 1 of .* is empty'),
        (['q', ' '], 'question 2 of .* is empty'),
        (['q', None], 'question 2 of .* is null'),
        (['q', 5], 'question 2 of .* is a number'),
        ([['q']], 'question 1 of .* is a list'),
        (['\ud83d'], 'question 1 of .* half a character'),
        (None, 'are null; expected a list of strings'),
        (5, 'are a number'),
        ({'q': 1}, 'are an object'),
    ],
)
def test_invalid_questions_are_refused(questions, message):
    with pytest.raises(ValueError, match=message):
        DrawQuestion(questions)


def test_one_string_is_one_key_to_pack():
    sample = PackSample(keys='task')(dict(images=[], task='t'))
    assert sample.metainfo == dict(task='t')


def flips(texts, number=200, **options):
    """Whether the first samples of a run are flipped."""
    turns = [Turn(*texts)]
    transform = DrawFlip(**options)
    return [
        transform(dict(turns=turns, sample_index=i))['flipped']
        for i in range(number)
    ]


def test_half_of_the_samples_are_flipped():
    drawn = flips(('', 'a cat'))
    assert 80 < sum(drawn) < 120
    assert drawn == flips(('', 'a cat'))
    assert drawn != flips(('', 'a cat'), seed=1)
    assert sum(flips(('', 'a cat'), prob=0)) == 0
    assert sum(flips(('', 'a cat'), prob=1)) == 200


@pytest.mark.parametrize(
    ('texts', 'can_flip'),
    [
        (('', 'A cat LEFT of a dog.'), False),
        (('what is on the right?', 'a cat'), False),
        (('', 'a right-hand turn'), False),
        (('', 'the leftmost cat'), False),
        (('', 'leftovers in a bright kitchen'), True),
        (('', 'a cat'), True),
        (('', None), True),
    ],
)
def test_a_text_that_names_a_side_is_not_flipped(texts, can_flip):
    assert any(flips(texts)) == can_flip


def test_flipped_images_are_mirrored(tmp_path):
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, :4] = 255
    Image.fromarray(pixels).save(tmp_path / 'a.png')
    record = dict(images=[tmp_path / 'a.png'], turns=[Turn('', 'a')])
    load = LoadImages(size=8)
    plain = load(record)['images'][0]
    flipped = load(DrawFlip(prob=1)(record))['images'][0]
    assert plain[0, 0].tolist() == [255] * 4 + [0] * 4
    assert torch.equal(flipped, plain.flip(-1))


def test_invalid_probability_of_flips_is_refused():
    with pytest.raises(ValueError, match='prob of DrawFlip is 2'):
        DrawFlip(prob=2)


def test_format_question():
    turns = [Turn('What?', 'a'), Turn('Who?', 'b')]
    found = FormatQuestion('{question} Briefly.')(dict(turns=turns))['turns']
    assert found == [Turn('What? Briefly.', 'a'), turns[1]]
    assert turns[0].question == 'What?'
    no_question = dict(turns=[Turn('', 'a')])
    assert FormatQuestion('{question} Briefly.')(no_question) == no_question
    for prompt in ('Briefly.', '{question} {question}'):
        with pytest.raises(ValueError, match='with {question} once'):
            FormatQuestion(prompt)
