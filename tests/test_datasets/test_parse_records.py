# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Records of every layout, their errors, and their image slots."""

import json

import pytest

from minigpt4.datasets.json_values import DuplicateKey, InvalidJson
from minigpt4.datasets.parse_records import read_record
from minigpt4.datasets.record_layouts import RecordError

NAN = float('nan')


def talk(*messages, keys=('from', 'value')):
    return [dict(zip(keys, message, strict=False)) for message in messages]


def llava(*messages, **others):
    return dict(conversations=talk(*messages), **others)


def turns_of(item, **options):
    turns = read_record(item, 0, **options).content['turns']
    return [(turn.question, turn.answer) for turn in turns]


GOOD = ('human', 'q'), ('gpt', 'a')


@pytest.mark.parametrize(
    'item, expected',
    [
        (dict(image_id='1', caption='c'), [('', 'c')]),
        (dict(image_id=1, caption='c'), [('', 'c')]),
        (dict(id='1', caption='c'), [('', 'c')]),
        (dict(question='q', answer='a'), [('q', 'a')]),
        (dict(question=' ', answer='a'), [('', 'a')]),
        (dict(question='', answer='a', image=None), [('', 'a')]),
        (llava(*GOOD), [('q', 'a')]),
        (llava(*GOOD, ('human', 'r'), ('gpt', 'b')), [('q', 'a'), ('r', 'b')]),
        (llava(('user', 'q'), ('assistant', 'a')), [('q', 'a')]),
        # llm_finetuning #5
        (llava(('USER', 'q'), ('Assistant ', 'a')), [('q', 'a')]),
        (llava(('human', 'q <img src="x">'), ('gpt', 'a')), None),
        (
            dict(
                conversations=talk(
                    ('user', 'q'),
                    ('assistant', 'a'),
                    keys=('role', 'content'),
                )
            ),
            [('q', 'a')],
        ),
        (
            dict(
                messages=talk(
                    ('system', 's'),
                    ('user', 'q'),
                    ('assistant', 'a'),
                    keys=('role', 'content'),
                )
            ),
            [('q', 'a')],
        ),
        (dict(id='1', conversation='###Ask: q ###Answer: a'), [('q', 'a')]),
        (
            dict(image_id='1', caption='\ufeffa\r\nb', id=None, url=NAN),
            [('', 'a\nb')],
        ),
    ],
)
def test_every_layout_gives_turns_and_images(item, expected):
    found = turns_of(json.loads(json.dumps(item)))
    assert found == (expected or [('q <img src="x">', 'a')])


@pytest.mark.parametrize(
    'item',
    [
        llava(('gpt', 'hi'), *GOOD),
        llava(('system', 's'), *GOOD),
        dict(id='1', conversation='Look. ###Ask: q ###Answer: a'),
    ],
)
def test_first_turn_that_is_not_human_is_dropped(item):
    """As llava/train/train.py; LLaVA #1390."""
    record = read_record(item, 0)
    assert record.dropped_turn
    assert turns_of(item) == [('q', 'a')]
    assert not read_record(llava(*GOOD), 0).dropped_turn


@pytest.mark.parametrize(
    'item, message',
    [
        # captions
        (dict(image_id='1', caption=5), 'caption is a number; expected a st'),
        (dict(image_id='1', caption=NAN), 'caption is a number'),
        (dict(image_id='1', caption=None), 'caption is null'),
        (dict(image_id='1', caption=['a']), 'caption is a list'),
        (dict(image_id='1', caption={}), 'caption is an object'),
        (dict(image_id='1', caption=True), 'caption is a boolean'),
        (dict(image_id='1', caption=''), 'caption is empty'),
        (dict(image_id='1', caption=' \n'), 'caption is empty'),
        (dict(image_id='1', caption='\u200b \u2060'), 'caption is empty'),
        (dict(image_id='1', caption='\ud83d'), 'caption contains half a char'),
        (dict(image_id='1', caption='a\0'), 'caption contains a control char'),
        (dict(image_id='1', caption='\x1b[3m'), 'caption contains a control'),
        (dict(caption='c'), 'a caption without an image; expected image_id'),
        (dict(image_id=None, caption='c'), 'a caption without an image'),
        (dict(image=[], caption='c'), 'a caption without an image'),
        # ids and images
        (dict(image_id=1.5, caption='c'), 'image_id is a number; .*whole num'),
        (dict(image_id=NAN, caption='c'), 'image_id is a number'),
        (dict(image_id=True, caption='c'), 'image_id is a boolean'),
        (dict(image_id=['1'], caption='c'), 'image_id is a list'),
        (dict(image_id='', caption='c'), 'image_id is empty'),
        (dict(id={}, question='q', answer='a'), 'id is an object'),
        (dict(image={}, question='q', answer='a'), 'image is an object'),
        (dict(image=[['1']], question='q', answer='a'), 'image is a list'),
        (dict(image=[None], question='q', answer='a'), 'image is null'),
        (dict(image='', question='q', answer='a'), 'image is empty'),
        (
            dict(image='a\0', question='q', answer='a'),
            'image contains a control',
        ),
        (dict(image='a\nb', question='q', answer='a'), 'a line break'),
        (dict(image='\ud800', question='q', answer='a'), 'half a char'),
        (dict(image='a' * 256, question='q', answer='a'), 'too long'),
        (dict(image='a/' * 2500, question='q', answer='a'), 'too long'),
        (
            dict(image='https://x.org/1.jpg', question='q', answer='a'),
            'is a URL .https:.; expected the name of a file',
        ),
        (
            dict(image='data:image/png;base64,', question='q', answer='a'),
            'is a URL',
        ),
        (
            dict(image='1', images=['2'], question='q', answer='a'),
            'both image and images',
        ),
        # questions and answers
        (dict(question=None, answer='a'), 'question is null'),
        (dict(question=5, answer='a'), 'question is a number'),
        (dict(question='\ud83d', answer='a'), 'question contains half'),
        (dict(question='q'), 'answer is missing; expected a string'),
        (dict(question='q', answer=None), 'answer is null'),
        (dict(question='q', answer=5), 'answer is a number'),
        (dict(question='q', answer=' '), 'answer is empty'),
        # conversations
        (dict(conversations=None), 'conversations is null; expected a list'),
        (dict(conversations='x'), 'conversations is a string'),
        (dict(conversations={}), 'conversations is an object'),
        (dict(conversations=[]), 'conversations is empty'),
        (dict(conversations=['q', 'a']), r'conversations\[0\] is a string'),
        (dict(conversations=[None]), r'conversations\[0\] is null'),
        (llava(('human', 'q'), ('gpt', None)), r's\[1\].value is null'),
        (llava(('human', 'q'), ('gpt',)), r's\[1\].value is missing'),
        (llava(('human', 'q'), ('gpt', 2)), r's\[1\].value is a number'),
        (llava(('human', 'q'), ('gpt', ['a'])), r's\[1\].value is a list'),
        (llava(('human', 'q'), ('gpt', ' ')), r's\[1\] has an empty answer'),
        (llava(*GOOD, ('human', ''), ('gpt', 'a')), r's\[2\] .*empty questio'),
        (llava(('Mensch', 'q'), ('gpt', 'a')), r"s\[0\].from is 'Mensch'"),
        (llava((None, 'q'), ('gpt', 'a')), r's\[0\].from is null'),
        (llava((['human'], 'q'), ('gpt', 'a')), r's\[0\].from is a list'),
        (llava(('human', 'q')), 'without an answer to the last question'),
        (llava(*GOOD, ('human', 'q')), 'without an answer'),
        (llava(('gpt', 'a')), 'without an answer'),
        (llava(('human', 'q'), ('human', 'r')), r's\[1\] is of human'),
        (llava(*GOOD, ('system', 's')), r's\[2\] is of system'),
        (llava(('system', 's'), ('gpt', 'a'), *GOOD), r's\[1\] is of gpt'),
        (
            dict(conversations=talk(('user', 'q'), keys=('role', 'content'))),
            'without an answer',
        ),
        (
            dict(messages=talk(('user', []), keys=('role', 'content'))),
            r'messages\[0\].content is a list',
        ),
        (dict(id='1', conversation=None), 'conversation is null'),
        (dict(id='1', conversation='a dog.'), 'does not alternate'),
        (
            dict(id='1', conversation='###Ask: q ###Answer: '),
            'no text after mark 2 of 2',
        ),
        # what would be letters without a word: lmms-finetune #5, ms-swift
        # #787
        (
            llava(('human', '<video>\nq'), ('gpt', 'a'), video='1.mp4'),
            'has a video; this model reads only images',
        ),
        (llava(('human', '<img>a.jpg</img>q'), ('gpt', 'a')), '<img>NAME</im'),
        # other values
        (5, 'is a number; expected an object'),
        (None, 'is null; expected an object'),
        (['a'], 'is a list; expected an object'),
        ({}, r'has the keys \[\]; expected caption'),
        (dict(text='t'), r"has the keys \['text'\]"),
        (InvalidJson('is no JSON (why)'), 'is no JSON'),
    ],
)
def test_error_of_an_invalid_record_names_field_and_reason(item, message):
    with pytest.raises(RecordError, match=message) as error:
        read_record(item, 0)
    assert str(error.value).isprintable()


def test_duplicate_key_is_refused():
    item = DuplicateKey(image_id='1', caption='c')
    item.key = 'caption'
    with pytest.raises(RecordError, match="has the key 'caption' twice"):
        read_record(item, 0)


def test_last_answer_is_optional_for_evaluation():
    for item in (
        dict(question='q'),
        dict(question='q', answer=None),
        llava(('human', 'q')),
        dict(id='1', conversation='###Ask: q'),
    ):
        assert turns_of(item, keep_answers=False) == [('q', None)]
    for answer in (0, [], 5):
        with pytest.raises(RecordError, match='answer is a'):
            read_record(dict(question='q', answer=answer), 0, None, False)
    with pytest.raises(RecordError, match=r's\[1\] has an empty answer'):
        read_record(
            llava(('human', 'q'), ('gpt', ''), ('human', 'r')),
            0,
            keep_answers=False,
        )


@pytest.mark.parametrize(
    'value, expected',
    [
        ('<image>\nWhat is it?', '<ImageHere> What is it?'),
        ('What is it?\n<image>', 'What is it? <ImageHere>'),
        ('What is it?<image>', 'What is it? <ImageHere>'),
        ('<image>What is it?', '<ImageHere> What is it?'),
        ('<image>', '<ImageHere>'),
        (' <image> \n', '<ImageHere>'),
        ('Look at <image> and say.', 'Look at <ImageHere> and say.'),
        ('Look at <image>.', 'Look at <ImageHere>.'),
        ('Look (<image>), then say.', 'Look (<ImageHere>), then say.'),
        ('a\n\nb  <image>  c\n\nd', 'a\n\nb <ImageHere> c\n\nd'),
        ('看<image>是什么', '看 <ImageHere> 是什么'),
        ('<Img><ImageHere></Img> What?', '<ImageHere> What?'),
        ('the letters <Img> <image>', 'the letters <Img> <ImageHere>'),
    ],
)
def test_one_space_separates_words_and_images(value, expected):
    """LLaVA #615: half of its questions end on <image>."""
    for item in (
        llava(('human', value), ('gpt', 'a'), image='1.jpg'),
        dict(question=value, answer='a', image='1.jpg'),
    ):
        assert turns_of(item) == [(expected, 'a')]


def test_record_may_have_several_images():
    item = llava(
        ('human', 'Compare <image> with <image>\n<image> please.'),
        ('gpt', 'a'),
        image=['1', '2', '3'],
    )
    assert turns_of(item)[0][0] == (
        'Compare <ImageHere> with <ImageHere><ImageHere> please.'
    )


def test_text_like_a_mark_inside_a_turn_is_kept():
    item = llava(
        ('human', '<image>\nq'), ('gpt', 'an <image>, <Img>'), image='1'
    )
    assert turns_of(item)[0][1] == 'an <image>, <Img>'
    html = llava(('human', 'What is <image> in SVG?'), ('gpt', 'a'))
    assert turns_of(html)[0][0] == 'What is <image> in SVG?'


@pytest.mark.parametrize(
    'question, images, found',
    [
        ('<image> and <image>', ['1'], '2 image slots .* but 1 images'),
        ('<image>', ['1', '2'], '1 image slots .* but 2 images'),
        ('<ImageHere> and <image>', ['1'], '2 image slots'),
    ],
)
def test_slots_must_be_as_many_as_images(question, images, found):
    item = llava(('human', question), ('gpt', 'a'), image=images)
    with pytest.raises(RecordError, match=found):
        read_record(item, 0)


def test_image_names_are_checked():
    def images(**item):
        item = dict(question='q', answer='a') | item
        return read_record(item, 7).content['images']

    assert images() == images(image=None) == images(image=[]) == []
    assert images(image=5) == ['5'] and images(image=['a', 5]) == ['a', '5']
    assert images(images=['a']) == ['a'] and images(image_id='b') == ['b']
    assert images(image='file:///a b.jpg') == ['file:///a b.jpg']
    assert images(image_id=52.0) == ['52']  # pandas #58306
    # LLaMA-Factory #6135, ms-swift #3940, IP-Adapter #419
    for key in ('image_path', 'img_path', 'image_file', 'file_name'):
        assert images(**{key: 'a.jpg'}) == ['a.jpg']
        with pytest.raises(RecordError, match=f'{key} is a list'):
            images(**{key: ['a']})
    assert images(id='x') == []  # a question may have no image


def test_id_is_preferred_to_image_id_and_number():
    def identifier(**item):
        return read_record(dict(caption='c') | item, 7).content['id']

    assert identifier(id='x', image_id='y') == 'x'
    assert identifier(image_id=3) == 3
    assert identifier(image='z', id=None) == 7


def test_coco_table_gives_the_image_names():
    """YOLO-World #144, LLaVA #13."""
    table = {'9': '000000000009.jpg', '8': None, '7': 5.5}

    def images(i):
        return read_record(dict(id=77, image_id=i, caption='c'), 0, table)

    assert images(9).content['images'] == ['000000000009.jpg']
    assert images('9').content['images'] == ['000000000009.jpg']
    for i, message in (
        (3, 'image_id is 3, which is not in the table "images"'),
        (8, 'no or more than one file_name'),
        (7, 'file_name of image 7 is a number'),
    ):
        with pytest.raises(RecordError, match=message):
            images(i)


SLOT = ('human', '<image> q'), ('gpt', 'a')


@pytest.mark.parametrize(
    'item',
    [
        dict(image_id='../1', caption='c'),
        dict(id='a/../../1.jpg', caption='c'),
        dict(image_id='..\\1', question='q', answer='a'),
        dict(image_id='file://../1', conversation='###Ask: q ###Answer: a'),
        dict(id='..', conversation='###Ask: <ImageHere> q ###Answer: a'),
        dict(messages=talk(*SLOT, keys=('role', 'content')), image_id='../1'),
    ],
)
def test_an_id_that_leaves_the_folder_is_refused(item):
    with pytest.raises(RecordError, match='leaves the folder of the images'):
        read_record(item, 0)


@pytest.mark.parametrize(
    'item, name',
    [
        (dict(image='../1.jpg', caption='c', id='../1'), '../1.jpg'),
        (dict(image_id='a/../1', caption='c'), 'a/../1'),
        (dict(image_id='..1', caption='c'), '..1'),
        (dict(image_id='/data/1.jpg', caption='c'), '/data/1.jpg'),
    ],
)
def test_paths_and_ids_of_the_folder_are_kept(item, name):
    assert read_record(item, 0).content['images'] == [name]
