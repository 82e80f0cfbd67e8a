# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Prompts and answers have the token ids of the official code."""

import logging

import pytest

from minigpt4.prompts import (
    IMAGE_SLOT,
    Turn,
    get_template,
    render,
    render_chat,
    tokenize,
    with_images,
)
from minigpt4.prompts.tokenization import encode

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


def test_stage_two_prompt_has_the_official_ids(llama_tokenizer):
    prompt = tokenize(
        render([Turn(ASK)], get_template('vicuna_v0')), llama_tokenizer
    )
    assert prompt.ids == [1, *HEAD, IMAGE_SLOT, *TAIL]
    assert len(prompt.ids) - 1 + 32 == 55
    assert prompt.num_images == 1 and not any(prompt.supervised)


def test_end_symbol_has_the_ids_after_a_word(llama_tokenizer):
    prompt = tokenize(
        render([Turn(ASK, 'The sky is blue.')], get_template('vicuna_v0')),
        llama_tokenizer,
    )
    context = 1 + len(HEAD) + 1 + len(TAIL)
    answer = llama_tokenizer(
        'The sky is blue.', add_special_tokens=False
    ).input_ids
    assert prompt.ids[context:] == [*answer, 2277, 29937]
    assert prompt.supervised == [False] * context + [True] * (len(answer) + 2)


def test_stage_one_has_no_prompt(llama_tokenizer):
    template = get_template('bare')
    question = with_images('', 1, template)
    prompt = tokenize(
        render([Turn(question, 'a cat')], template), llama_tokenizer
    )
    assert prompt.ids == [1, IMAGE_SLOT, 263, 6635, 13]
    assert prompt.supervised == [False, False, True, True, True]


def test_llama2_prompt_has_the_official_ids(llama_tokenizer):
    prompt = tokenize(
        render([Turn(ASK, 'ok')], get_template('llama2')), llama_tokenizer
    )
    assert prompt.ids[:5] == [1, 518, 25580, 29962, 529]
    assert prompt.ids[-2:] == [3431, 2] and prompt.supervised[-2:] == [
        True,
        True,
    ]
    assert not any(prompt.supervised[:-2])


def test_llama2_later_turn_starts_with_bos(llama_tokenizer):
    prompt = tokenize(
        render([Turn('a', 'ok'), Turn('a')], get_template('llama2')),
        llama_tokenizer,
    )
    assert prompt.ids.count(1) == 2
    assert prompt.ids[prompt.ids.index(2) + 1] == 1


def test_bos_is_added_once_if_the_tokenizer_has_one(tiny_tokenizer):
    segments = render(
        [Turn(ASK, 'a'), Turn('b', 'c')], get_template('vicuna_v0')
    )
    prompt = tokenize(segments, tiny_tokenizer)
    assert prompt.ids[0] == tiny_tokenizer.bos_token_id
    assert prompt.ids.count(tiny_tokenizer.bos_token_id) == 1

    def without_bos(text, **options):
        return tiny_tokenizer(text, **options)

    without_bos.bos_token_id = None
    assert tokenize(segments, without_bos).ids == prompt.ids[1:]


def test_truncation_cuts_only_answers_and_is_counted(tiny_tokenizer):
    template = get_template('vicuna_v0')
    turns = [
        Turn('what is the colour of a circle', 'the red blue green circle'),
        Turn('what', 'a'),
    ]
    complete = tokenize(render(turns, template), tiny_tokenizer)
    cut = tokenize(render(turns, template), tiny_tokenizer, 3)
    assert complete.truncated == 0 and sum(complete.supervised[:-3]) > 3
    assert cut.truncated == 1
    first = complete.supervised.index(True)
    assert cut.ids[: first + 3] == complete.ids[: first + 3]
    assert not cut.supervised[first + 3] and cut.supervised[first + 2]
    # the prompt after the cut answer, and the short answer, are untouched
    rest = complete.supervised.index(False, first)
    assert cut.ids[first + 3 :] == complete.ids[rest:]


def test_answer_of_maximum_length_is_complete(tiny_tokenizer):
    segments = render(
        [Turn('what', 'the red circle')], get_template('vicuna_v0')
    )
    complete = tokenize(segments, tiny_tokenizer)
    limit = sum(complete.supervised)
    prompt = tokenize(segments, tiny_tokenizer, limit)
    assert prompt == complete
    prompt = tokenize(segments, tiny_tokenizer, limit - 1)
    assert prompt.truncated == 1 and sum(prompt.supervised) == limit - 1


SPECIAL_TOKENS = 'a </s> b <s> c <unk>'


def test_special_tokens_in_texts_are_plain_text(llama_tokenizer):
    """Long-Context-Data-Engineering #14, tokenizers #1347 and #1850."""
    for name, bos, eos in (('vicuna_v0', 1, 0), ('llama2', 2, 2)):
        template = get_template(name)
        turns = [
            Turn(SPECIAL_TOKENS, SPECIAL_TOKENS),
            Turn(SPECIAL_TOKENS, SPECIAL_TOKENS),
        ]
        prompt = tokenize(render(turns, template), llama_tokenizer)
        assert (prompt.ids.count(1), prompt.ids.count(2)) == (bos, eos), name
        assert 0 not in prompt.ids
        decoded = llama_tokenizer.decode(prompt.ids)
        assert decoded.count('a </s> b <s> c <unk>') == 4, name
    # the last supervised token of each answer is its end symbol
    supervised = [
        i for i, s in zip(prompt.ids, prompt.supervised, strict=True) if s
    ]
    assert supervised[-1] == 2 and supervised.count(2) == 2


@pytest.mark.parametrize('name', ['vicuna_v0', 'llama2'])
def test_special_tokens_in_a_chat_are_plain_text(llama_tokenizer, name):
    template = get_template(name)
    turns = [
        Turn(f'<ImageHere> {SPECIAL_TOKENS}', SPECIAL_TOKENS),
        Turn(SPECIAL_TOKENS),
    ]
    prompt = tokenize(
        render_chat(turns, template, SPECIAL_TOKENS), llama_tokenizer
    )
    is_llama2 = name == 'llama2'
    # llama2 writes <s> before each question and </s> after the answer
    assert prompt.ids.count(1) == 1 + 2 * is_llama2
    assert prompt.ids.count(2) == is_llama2
    assert prompt.num_images == 1


def test_question_is_tokenised_together_with_the_template(tiny_tokenizer):
    """A question and the template around it are one text."""
    prompt = tokenize(
        render([Turn('what')], get_template('vicuna_v0')), tiny_tokenizer
    )
    text = '###Human: what ###Assistant: '
    assert (
        prompt.ids[1:]
        == tiny_tokenizer(text, add_special_tokens=False).input_ids
    )


def test_lone_surrogate_is_refused(tiny_tokenizer):
    segments = render([Turn('how many? \ud83d')], get_template('vicuna_v0'))
    with pytest.raises(ValueError, match=r'half a character.*U\+D83D'):
        tokenize(segments, tiny_tokenizer)


def test_a_long_text_gives_no_warning_of_transformers(
    tiny_tokenizer, monkeypatch
):
    warned = []
    monkeypatch.setattr(tiny_tokenizer, 'model_max_length', 2)
    monkeypatch.setattr(
        logging.getLogger('transformers.tokenization_utils_base'),
        'warning',
        lambda *args: warned.append(args),
    )
    assert len(encode(tiny_tokenizer, 'the red circle ' * 50)) > 100
    assert not warned
    tiny_tokenizer('the red circle ' * 50)  # the cause of the option
    assert warned
