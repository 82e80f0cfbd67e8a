# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Contexts and messages of tasks to turns and images."""

import pytest
from PIL import Image

from minigpt4.harness.prompts import (
    Question,
    question_of_context,
    question_of_messages,
    with_history,
)
from minigpt4.prompts import Turn, get_template

A = Image.new('RGB', (4, 4))
B = Image.new('RGB', (5, 5))
VICUNA = get_template('vicuna_v0')
IMAGE = '<Img><ImageHere></Img>'


def text(value: str) -> dict:
    return dict(type='text', text=value)


def image(value) -> dict:
    return dict(type='image', url=value)


def user(*parts) -> dict:
    return dict(role='user', content=list(parts))


def test_the_images_of_a_context_have_no_slots():
    question = question_of_context('What?', [A, [B]])
    assert question == Question([Turn('What?')], [A, B])
    assert question_of_context('What?', None).images == []
    assert question_of_context('What?', A).images == [A]


def test_placeholders_are_slots_if_there_is_one_for_each_image():
    question = question_of_context('First <image>, then <image>.', [A, B])
    assert question.turns == [Turn('First <ImageHere>, then <ImageHere>.')]
    question = question_of_context('First <image>.', [A, B])
    assert question.turns == [Turn('First <image>.')]
    question = question_of_context('What does <image> mean in HTML?', [])
    assert question.turns == [Turn('What does <image> mean in HTML?')]


def test_a_message_with_images_first_is_a_context():
    expected = question_of_context('What?', [A, B])
    for parts in (
        (image(A), image(B), text('What?')),
        (text('What?'), image(A), image(B)),
        (image(A), image(B), text(''), text('Wh'), text('at?')),
    ):
        assert question_of_messages([user(*parts)], VICUNA) == expected
    question = question_of_messages([user(image(A))], VICUNA)
    assert question == Question([Turn('')], [A]), "the model's own question"


def test_images_in_a_text_are_where_they_stand():
    question = question_of_messages(
        [user(image(A), text('and'), image(B), text(' differ?'))], VICUNA
    )
    assert question.turns == [Turn(f'{IMAGE} and{IMAGE} differ?')]
    assert question.images == [A, B]
    question = question_of_messages(
        [user(image(A), text('and'), image(B), text('differ?'))],
        get_template('bare'),
    )
    assert question.turns == [Turn('<ImageHere>and<ImageHere>differ?')]


def test_messages_are_turns():
    question = question_of_messages(
        [
            dict(role='system', content='Be brief.'),
            user(image(A), text('One?')),
            dict(role='assistant', content=[text('Yes.')]),
            dict(role='assistant', content='Indeed.'),
            user(text('Two?')),
            user(text('Really?'), image(B)),
        ],
        VICUNA,
    )
    assert question.system == 'Be brief.'
    assert question.turns == [
        Turn(f'{IMAGE} One?', 'Yes.\nIndeed.'),
        Turn(f'Two?\n{IMAGE} Really?'),
    ]
    assert question.images == [A, B]


@pytest.mark.parametrize(
    'messages, message',
    [
        ([], 'expected a list of messages'),
        (None, 'doc_to_messages gave null'),
        ([dict(role='tool', content='')], 'expected an object with a role'),
        ([dict(role='user', content=3)], 'the content of message 1 of 1 is 3'),
        ([user(dict(type='video', url='a.mp4'))], 'type "video"; this model'),
        ([user(image(3.0))], 'gave a float; expected images'),
        ([user(text('a <ImageHere>'))], 'marks image slots'),
        ([user(text(None))], 'a text of message 1 of 1 is null'),
        ([dict(role='assistant', content='Hi.')], 'cannot be there'),
        (
            [user(text('a')), dict(role='assistant', content='b')],
            'the last message is not of user',
        ),
        (
            [user(text('a')), dict(role='system', content='b')],
            'message 2 of 2 is one of system, which cannot be there',
        ),
        (
            [user(text('a')), dict(role='assistant', content=[image(A)])],
            'one of assistant with an image',
        ),
    ],
)
def test_other_messages_are_refused(messages, message):
    with pytest.raises(ValueError, match=message):
        question_of_messages(messages, VICUNA)


def test_the_text_and_images_of_a_context_are_checked():
    with pytest.raises(ValueError, match='marks image slots'):
        question_of_context('a <ImageHere>', [A])
    with pytest.raises(ValueError, match='gave a dict; expected images'):
        question_of_context('a', [dict(video=1)])


def test_earlier_questions_come_first():
    first = question_of_context('One?', [A])
    second = question_of_context('Two <image>?', [B])
    third = question_of_context('Three?', None)
    question = with_history([(first, '1'), (second, '2')], third, VICUNA)
    assert question.turns == [
        Turn(f'{IMAGE} One?', '1'),
        Turn('Two <ImageHere>?', '2'),
        Turn('Three?'),
    ]
    assert question.images == [A, B]
    assert with_history([], first, VICUNA).turns == [Turn(f'{IMAGE} One?')]
    later = Question([Turn('Hello.', 'Hi.'), Turn('This <ImageHere>?')], [A])
    assert with_history([], later, VICUNA).turns == later.turns
