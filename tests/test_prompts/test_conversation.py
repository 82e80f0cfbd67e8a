# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Conversations are rendered as in the official code."""

import pytest

from minigpt4.prompts import Segment, Turn, get_template, render, with_images


def texts(turns, template):
    return [s.text for s in render(turns, get_template(template))]


@pytest.mark.parametrize(
    'template, expected',
    [
        (
            'vicuna_v0',
            [
                '###Human: one ###Assistant: ',
                'two###',
                'Human: three ###Assistant: ',
                'four###',
            ],
        ),
        (
            'llama2',
            [
                '[INST] one [/INST] ',
                'two</s>',
                '<s>[INST] three [/INST] ',
                'four</s>',
            ],
        ),
        ('bare', ['one', 'two\n', 'three', 'four\n']),
    ],
)
def test_end_symbol_is_followed_by_the_next_turn(template, expected):
    turns = [Turn('one', 'two'), Turn('three', 'four')]
    segments = render(turns, get_template(template))
    assert [s.text for s in segments] == expected
    assert [s.supervised for s in segments] == [False, True, False, True]
    assert '######' not in ''.join(expected)


def test_prompt_is_the_conversation_without_its_last_answer():
    template = get_template('vicuna_v0')
    complete = render([Turn('a', 'b'), Turn('c', 'd')], template)
    assert render([Turn('a', 'b'), Turn('c')], template) == complete[:-1]


def test_image_slots_split_a_question():
    assert render(
        [Turn('<ImageHere> and <ImageHere>?', 'x')], get_template('vicuna_v0')
    ) == [
        Segment('###Human: <Img>'),
        Segment(None),
        Segment('</Img> and <Img>'),
        Segment(None),
        Segment('</Img>? ###Assistant: '),
        Segment('x###', True),
    ]


def test_wrapped_and_unwrapped_slots_render_equally():
    wrapped = '<Img><ImageHere></Img> a <Img><ImageHere></Img> b'
    want = texts([Turn(wrapped)], 'vicuna_v0')
    assert want.count(None) == 2 and '<Img><Img>' not in str(want)
    for question in (
        '<ImageHere> a <ImageHere> b',
        '<Img><ImageHere></Img> a <ImageHere> b',
        '<ImageHere> a <Img><ImageHere></Img> b',
    ):
        assert texts([Turn(question)], 'vicuna_v0') == want


def test_question_without_image_is_one_segment():
    assert texts([Turn('hello')], 'vicuna_v0') == [
        '###Human: hello ###Assistant: '
    ]


def test_image_slot_in_an_answer_is_text():
    assert texts([Turn('q', 'I saw <ImageHere>')], 'vicuna_v0')[1:] == [
        'I saw <ImageHere>###'
    ]


def test_image_slots_are_prepended_to_a_question_without_slots():
    vicuna, bare = get_template('vicuna_v0'), get_template('bare')
    image = '<Img><ImageHere></Img>'
    assert with_images('hi', 2, vicuna) == image + image + ' hi'
    assert with_images('', 1, vicuna) == image
    assert with_images('see <ImageHere>', 1, vicuna) == 'see <ImageHere>'
    assert with_images('hi', 0, vicuna) == 'hi'
    assert with_images('', 1, bare) == '<ImageHere>'


def test_missing_answers_and_turns_are_refused():
    template = get_template('vicuna_v0')
    with pytest.raises(ValueError, match='turn 1 of 2 has no answer'):
        render([Turn('a'), Turn('b', 'c')], template)
    with pytest.raises(ValueError, match='without turns'):
        render([], template)
