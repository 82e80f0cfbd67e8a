# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Prompts: text, image slots, supervision and LLaMA's very token ids."""

import pytest

from minigpt4.prompts import (
    IMAGE_SLOT,
    Segment,
    Turn,
    get_template,
    render,
    render_chat,
    tokenize,
    with_images,
)

HEAD = [835, 29950, 7889, 29901, 529, 25518, 29958]
TAIL = [
    1533,
    25518,
    29958,
    20355,
    915,
    445,
    1967,
    297,
    9493,
    29889,
    835,
    7900,
    22137,
    29901,
    29871,
]
ASK = '<Img><ImageHere></Img> Describe this image in detail.'


def texts(turns, template):
    return [s.text for s in render(turns, get_template(template))]


def test_stage_two_ids_are_the_official_ones(llama_tokenizer):
    row = tokenize(
        render([Turn(ASK)], get_template('vicuna_v0')), llama_tokenizer
    )
    assert row.ids == [1, *HEAD, IMAGE_SLOT, *TAIL]
    assert len(row.ids) - 1 + 32 == 55
    assert row.num_images == 1 and not any(row.supervised)


def test_learned_end_symbol_is_the_glued_spelling(llama_tokenizer):
    row = tokenize(
        render([Turn(ASK, 'The sky is blue.')], get_template('vicuna_v0')),
        llama_tokenizer,
    )
    context = 1 + len(HEAD) + 1 + len(TAIL)
    answer = llama_tokenizer(
        'The sky is blue.', add_special_tokens=False
    ).input_ids
    assert row.ids[context:] == [*answer, 2277, 29937]
    assert row.supervised == [False] * context + [True] * (len(answer) + 2)


def test_stage_one_has_no_prompt(llama_tokenizer):
    template = get_template('bare')
    question = with_images('', 1, template)
    row = tokenize(
        render([Turn(question, 'a cat')], template), llama_tokenizer
    )
    assert row.ids == [1, IMAGE_SLOT, 263, 6635, 13]
    assert row.supervised == [False, False, True, True, True]


def test_llama2_ids(llama_tokenizer):
    row = tokenize(
        render([Turn(ASK, 'ok')], get_template('llama2')), llama_tokenizer
    )
    assert row.ids[:5] == [1, 518, 25580, 29962, 529]
    assert row.ids[-2:] == [3431, 2] and row.supervised[-2:] == [True, True]
    assert not any(row.supervised[:-2])


def test_llama2_later_turn_opens_with_bos(llama_tokenizer):
    row = tokenize(
        render([Turn('a', 'ok'), Turn('a')], get_template('llama2')),
        llama_tokenizer,
    )
    assert row.ids.count(1) == 2
    assert row.ids[row.ids.index(2) + 1] == 1


def test_bos_stands_once_and_only_where_there_is_one(tiny_tokenizer):
    segments = render(
        [Turn(ASK, 'a'), Turn('b', 'c')], get_template('vicuna_v0')
    )
    row = tokenize(segments, tiny_tokenizer)
    assert row.ids[0] == tiny_tokenizer.bos_token_id
    assert row.ids.count(tiny_tokenizer.bos_token_id) == 1

    def without_bos(text, add_special_tokens):
        return tiny_tokenizer(text, add_special_tokens=add_special_tokens)

    without_bos.bos_token_id = None
    assert tokenize(segments, without_bos).ids == row.ids[1:]


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
def test_end_symbol_opens_the_next_turn(template, expected):
    turns = [Turn('one', 'two'), Turn('three', 'four')]
    segments = render(turns, get_template(template))
    assert [s.text for s in segments] == expected
    assert [s.supervised for s in segments] == [False, True, False, True]
    assert '######' not in ''.join(expected)


def test_completion_is_the_same_call_without_the_answer():
    template = get_template('vicuna_v0')
    whole = render([Turn('a', 'b'), Turn('c', 'd')], template)
    assert render([Turn('a', 'b'), Turn('c')], template) == whole[:-1]


def test_images_split_a_question():
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


def test_bare_and_wrapped_slots_render_alike():
    wrapped = '<Img><ImageHere></Img> a <Img><ImageHere></Img> b'
    want = texts([Turn(wrapped)], 'vicuna_v0')
    assert want.count(None) == 2 and '<Img><Img>' not in str(want)
    for question in (
        '<ImageHere> a <ImageHere> b',
        '<Img><ImageHere></Img> a <ImageHere> b',
        '<ImageHere> a <Img><ImageHere></Img> b',
    ):
        assert texts([Turn(question)], 'vicuna_v0') == want


def test_text_only_has_no_slot():
    assert texts([Turn('hello')], 'vicuna_v0') == [
        '###Human: hello ###Assistant: '
    ]


def test_slot_in_an_answer_is_text():
    assert texts([Turn('q', 'I saw <ImageHere>')], 'vicuna_v0')[1:] == [
        'I saw <ImageHere>###'
    ]


def test_with_images_stands_in_front_unless_placed():
    vicuna, bare = get_template('vicuna_v0'), get_template('bare')
    image = '<Img><ImageHere></Img>'
    assert with_images('hi', 2, vicuna) == image + image + ' hi'
    assert with_images('', 1, vicuna) == image
    assert with_images('see <ImageHere>', 1, vicuna) == 'see <ImageHere>'
    assert with_images('hi', 0, vicuna) == 'hi'
    assert with_images('', 1, bare) == '<ImageHere>'


def test_truncation_cuts_answers_alone_and_is_counted(tiny_tokenizer):
    template = get_template('vicuna_v0')
    turns = [
        Turn('what is the colour of a circle', 'the red blue green circle'),
        Turn('what', 'a'),
    ]
    whole = tokenize(render(turns, template), tiny_tokenizer)
    cut = tokenize(render(turns, template), tiny_tokenizer, 3)
    assert whole.truncated == 0 and sum(whole.supervised[:-3]) > 3
    assert cut.truncated == 1
    first = whole.supervised.index(True)
    assert cut.ids[: first + 3] == whole.ids[: first + 3]
    assert not cut.supervised[first + 3] and cut.supervised[first + 2]
    # the prompt after the cut answer, and the short answer, are untouched
    rest = whole.supervised.index(False, first)
    assert cut.ids[first + 3 :] == whole.ids[rest:]


def test_answer_of_just_the_limit_is_whole(tiny_tokenizer):
    segments = render(
        [Turn('what', 'the red circle')], get_template('vicuna_v0')
    )
    whole = tokenize(segments, tiny_tokenizer)
    limit = sum(whole.supervised)
    row = tokenize(segments, tiny_tokenizer, limit)
    assert row == whole
    row = tokenize(segments, tiny_tokenizer, limit - 1)
    assert row.truncated == 1 and sum(row.supervised) == limit - 1


def test_errors():
    template = get_template('vicuna_v0')
    with pytest.raises(ValueError, match='turn 1 of 2 has no answer'):
        render([Turn('a'), Turn('b', 'c')], template)
    with pytest.raises(ValueError, match='without turns'):
        render([], template)
    with pytest.raises(
        ValueError, match="unknown prompt template 'vicuna'.*vicuna_v0"
    ):
        get_template('vicuna')
    assert get_template(template) is template


def test_system_line_is_the_official_one():
    assert get_template('vicuna_v0').system == (
        'Give the following image: <Img>ImageContent</Img>. You will be able '
        'to see the image once I provide it to you. Please answer my '
        'questions.###'
    )


HOSTILE = 'a </s> b <s> c <unk>'


def test_control_symbols_in_texts_are_letters(llama_tokenizer):
    """Long-Context-Data-Engineering #14, tokenizers #1347 and #1850."""
    for name, bos, eos in (('vicuna_v0', 1, 0), ('llama2', 2, 2)):
        template = get_template(name)
        turns = [Turn(HOSTILE, HOSTILE), Turn(HOSTILE, HOSTILE)]
        row = tokenize(render(turns, template), llama_tokenizer)
        assert (row.ids.count(1), row.ids.count(2)) == (bos, eos), name
        assert 0 not in row.ids
        spelled = llama_tokenizer.decode(row.ids)
        assert spelled.count('a </s> b <s> c <unk>') == 4, name
    # the last token of each answer that is learned is its end symbol
    learned = [i for i, s in zip(row.ids, row.supervised, strict=True) if s]
    assert learned[-1] == 2 and learned.count(2) == 2


@pytest.mark.parametrize('name', ['vicuna_v0', 'llama2'])
def test_control_symbols_in_a_chat_are_letters(llama_tokenizer, name):
    template = get_template(name)
    turns = [Turn(f'<ImageHere> {HOSTILE}', HOSTILE), Turn(HOSTILE)]
    row = tokenize(render_chat(turns, template, HOSTILE), llama_tokenizer)
    llama2 = name == 'llama2'
    # llama2 writes <s> before each question and </s> behind the answer
    assert row.ids.count(1) == 1 + 2 * llama2
    assert row.ids.count(2) == llama2
    assert row.num_images == 1


def test_letters_join_the_template_around_them(tiny_tokenizer):
    """A question is not cut off from the words of the template."""
    row = tokenize(
        render([Turn('what')], get_template('vicuna_v0')), tiny_tokenizer
    )
    text = '###Human: what ###Assistant: '
    assert (
        row.ids[1:] == tiny_tokenizer(text, add_special_tokens=False).input_ids
    )


def test_lone_surrogate_is_refused_in_a_sentence(tiny_tokenizer):
    segments = render([Turn('how many? \ud83d')], get_template('vicuna_v0'))
    with pytest.raises(ValueError, match=r'half a character.*U\+D83D'):
        tokenize(segments, tiny_tokenizer)
