# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Records with two answers in each of TRL's forms."""

import pytest

from minigpt4.datasets.parse_pairs import read_pair
from minigpt4.datasets.record_layouts import RecordError
from minigpt4.prompts import Turn

IMAGE = dict(type='image')


def text(value):
    return dict(type='text', text=value)


def message(role, content):
    return dict(role=role, content=content)


USER = message('user', [IMAGE, text('What is this?')])
GOOD = message('assistant', [text('A cat.')])
BAD = message('assistant', 'A dog.')
FORMS = dict(
    exported=dict(
        images=['image/1.jpg'], prompt=[USER], chosen=[GOOD], rejected=[BAD]
    ),
    without_prompt=dict(
        images=['image/1.jpg'], chosen=[USER, GOOD], rejected=[USER, BAD]
    ),
    plain=dict(
        image='image/1.jpg',
        prompt='<image>What is this?',
        chosen='A cat.',
        rejected='A dog.',
    ),
    mixed=dict(
        images=['image/1.jpg'],
        prompt=[USER],
        chosen=' A cat. ',
        rejected='A dog.',
    ),
)


@pytest.mark.parametrize('form', FORMS)
def test_each_form_is_the_same_record(form):
    content = read_pair(FORMS[form], 4).content
    assert content == dict(
        id=4,
        images=['image/1.jpg'],
        turns=[Turn('<ImageHere> What is this?', 'A cat.')],
        rejected='A dog.',
    )


def test_answers_alone_get_a_drawn_question():
    item = dict(id='a', image='1.jpg', chosen='A cat.', rejected='A dog.')
    content = read_pair(item, 0).content
    assert content['turns'] == [Turn('', 'A cat.')]
    assert content['id'] == 'a'


def test_earlier_turns_are_kept_and_a_system_message_is_dropped():
    prompt = [
        message('system', 'Be brief.'),
        USER,
        GOOD,
        message('user', 'Why?'),
    ]
    item = dict(FORMS['exported'], prompt=prompt, score=3)
    record = read_pair(item, 0)
    assert record.dropped_turn
    assert record.content['turns'] == [
        Turn('<ImageHere> What is this?', 'A cat.'),
        Turn('Why?', 'A cat.'),
    ]
    assert record.content['score'] == 3


@pytest.mark.parametrize(
    ('changes', 'reason'),
    [
        (dict(chosen=None), 'chosen is null; expected a text or a list'),
        (dict(chosen=[]), 'chosen is an empty list; expected a text'),
        (dict(chosen='A dog.'), 'has the same text as chosen and as rejected'),
        (dict(chosen=' '), 'with its chosen answer: .* empty answer'),
        (dict(rejected=''), 'with its rejected answer: .* empty answer'),
        (dict(rejected=['x']), r'rejected\[0\] is a string; expected an obj'),
        (dict(rejected=[USER]), "rejected ends with a message of 'user'"),
        (dict(rejected=[dict(a=1)]), 'rejected ends with a message of None'),
        (
            dict(chosen=[message('assistant', 3)]),
            r'with its chosen answer: messages\[1\].content is a number',
        ),
        (
            dict(chosen=[message('assistant', [dict(type='audio')])]),
            r'chosen\[0\].content\[0\] is no image and no text; expected',
        ),
        (dict(chosen=[USER, GOOD]), 'has different messages before'),
        (
            dict(chosen=[USER, GOOD], rejected=[USER, BAD]),
            'has a prompt, and other messages before the answer',
        ),
        (dict(prompt=[GOOD]), r'messages\[1\] is of gpt; expected alternat'),
        (dict(images=[]), 'has 1 image slots in its questions, but 0 images'),
        (dict(images=['http://a/b.jpg']), r'is a URL \(http:\)'),
    ],
)
def test_invalid_records(changes, reason):
    with pytest.raises(RecordError, match=reason):
        read_pair({**FORMS['exported'], **changes}, 0)


@pytest.mark.parametrize(
    ('item', 'reason'),
    [
        (['a'], 'is a list; expected an object'),
        (
            dict(image_id='1', caption='A cat.'),
            'has the keys caption, image_id, no chosen; expected a text',
        ),
    ],
)
def test_other_records(item, reason):
    with pytest.raises(RecordError, match=reason):
        read_pair(item, 0)
