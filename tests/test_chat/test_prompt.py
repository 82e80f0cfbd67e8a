# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The prompt of a conversation: text, token ids and the context limit."""

import pytest
import torch
from PIL import Image

from minigpt4.chat.prompt import ContextLengthError, build_prompt
from minigpt4.prompts import (
    IMAGE_SLOT,
    Turn,
    get_template,
    render_chat,
    tokenize,
)

SYSTEM = (
    'Give the following image: <Img>ImageContent</Img>. You will be able to '
    'see the image once I provide it to you. Please answer my questions.'
)


def image(shade):
    return Image.new('RGB', (40, 30), (shade, 120, 255 - shade))


def text_of(segments):
    return ''.join(s.text or '<ImageHere>' for s in segments)


# text and token ids


def test_official_chat_text():
    turns = [
        Turn('<ImageHere> What is it?', 'A cat.'),
        Turn('Why?', 'It purrs.'),
        Turn('<Img><ImageHere></Img> And this?'),
    ]
    expected = (
        f'{SYSTEM}###Human: <Img><ImageHere></Img> What is it?###Assistant: '
        'A cat.###Human: Why?###Assistant: It purrs.###'
        'Human: <Img><ImageHere></Img> And this?###Assistant: '
    )
    template = get_template('vicuna_v0')
    assert text_of(render_chat(turns, template)) == expected
    assert text_of(render_chat(turns, template, SYSTEM)) == expected
    plain = text_of(render_chat(turns, template, ''))
    assert plain == '###' + expected.removeprefix(f'{SYSTEM}###')
    other = text_of(render_chat(turns, template, 'Be brief.'))
    assert other == 'Be brief.' + plain


def test_first_turn_has_official_token_ids(llama_tokenizer):
    """MiniGPT-4 ``get_context_emb``: BOS once, each text as one string."""
    tokenized = tokenize(
        render_chat(
            [Turn('<ImageHere> What is it?')], get_template('vicuna_v0')
        ),
        llama_tokenizer,
    )
    before, after = (
        llama_tokenizer(text, add_special_tokens=False).input_ids
        for text in (
            f'{SYSTEM}###Human: <Img>',
            '</Img> What is it?###Assistant: ',
        )
    )
    assert tokenized.ids == [1, *before, IMAGE_SLOT, *after]


def test_bos_once_for_vicuna_and_once_per_turn_for_llama2(llama_tokenizer):
    turns = [Turn('<ImageHere> a', 'b'), Turn('c', 'd'), Turn('e')]
    tokenized = tokenize(
        render_chat(turns, get_template('vicuna_v0')), llama_tokenizer
    )
    assert tokenized.ids.count(1) == 1 and tokenized.ids[0] == 1
    llama2 = get_template('llama2')
    assert text_of(render_chat(turns, llama2)) == (
        f'{SYSTEM}<s>[INST] <Img><ImageHere></Img> a [/INST] b</s>'
        '<s>[INST] c [/INST] d</s><s>[INST] e [/INST] '
    ), "the official chat; each answer ends as in LLaMA-2's own chat"
    # without a system line as in training: nothing between BOS and [INST]
    tokenized = tokenize(render_chat(turns, llama2, ''), llama_tokenizer)
    assert tokenized.ids.count(1) == 3
    assert not any(
        a == b == 1 for a, b in zip(tokenized.ids, tokenized.ids[1:])
    )


def test_answer_keeps_its_generated_token_ids(llama_tokenizer):
    """Tokenised together with the text before it, its ids would differ."""
    template = get_template('vicuna_v0')
    prompt = tokenize(render_chat([Turn('a')], template), llama_tokenizer)
    answer_ids = llama_tokenizer(
        'The cat.###', add_special_tokens=False
    ).input_ids
    assert answer_ids[-2:] == [2277, 29937]
    turns = [Turn('a', 'The cat.'), Turn('b')]
    tokenized = tokenize(render_chat(turns, template), llama_tokenizer)
    assert (
        tokenized.ids[: len(prompt.ids) + len(answer_ids)]
        == prompt.ids + answer_ids
    )
    other_ids = (
        *answer_ids[:-2],
        835,
    )  # another tokenization of the stop string
    turns[0] = Turn('a', 'The cat.', other_ids)
    tokenized = tokenize(render_chat(turns, template), llama_tokenizer)
    assert tokenized.ids[: len(prompt.ids) + len(other_ids)] == [
        *prompt.ids,
        *other_ids,
    ]


def test_last_turn_must_be_a_question():
    template = get_template('vicuna_v0')
    for turns in ([], [Turn('a', 'b')]):
        with pytest.raises(ValueError, match='ends with a question'):
            render_chat(turns, template)
    with pytest.raises(ValueError, match='turn 1 of 2 has no answer'):
        render_chat([Turn('a'), Turn('b')], template)


def test_image_slots_are_placed_as_written(tiny_model):
    """Without any slot, images precede the first question."""
    turns = [Turn('one', 'yes'), Turn('two')]
    images = [image(0), image(1)]
    prompt = build_prompt(tiny_model, turns, images, '')
    placed = [Turn('<ImageHere><ImageHere> one', 'yes'), Turn('two')]
    assert (
        prompt.tokenized.ids
        == build_prompt(tiny_model, placed, images, '').tokenized.ids
    )
    text = tiny_model.decoder.tokenizer.decode(
        [i for i in prompt.tokenized.ids if i != IMAGE_SLOT]
    )
    assert text.index('Img') < text.index('one') and len(prompt.images) == 2
    with pytest.raises(ValueError, match='1 image slots in the chat but 2'):
        build_prompt(tiny_model, [Turn('<ImageHere> one')], images)
    with pytest.raises(ValueError, match='1 image slots in the chat but 0'):
        build_prompt(tiny_model, [Turn('<ImageHere> one')], [])


def test_system_line_from_argument_model_or_template(tiny_model):
    def opening(model, system):
        tokenized = build_prompt(model, [Turn('a')], [], system).tokenized
        return model.decoder.tokenizer.decode(tokenized.ids[1:])

    assert opening(tiny_model, None).startswith('Give the following')
    assert opening(tiny_model, '').startswith('###Human: a')
    assert opening(tiny_model, 'the red').startswith('the red###Human: a')
    tiny_model.system = ''
    assert opening(tiny_model, None).startswith('###Human: a')


# the context limit


def long_chat(number, images=0):
    turns = [
        Turn(
            f'{"<ImageHere> " if i < images else ""}question {i}',
            'the small circle on a square ' * 3,
        )
        for i in range(number - 1)
    ]
    return [*turns, Turn('last')]


def test_overflow_drops_oldest_turns_with_a_notice(tiny_model):
    """Unlike the official cut from the left, keeps BOS, system and images."""
    images = [image(i) for i in (1, 2)]
    full = build_prompt(tiny_model, long_chat(8, 2), images, max_new_tokens=9)
    assert full.notice is None and full.num_dropped == 0
    prompt = build_prompt(
        tiny_model,
        long_chat(8, 2),
        images,
        max_context=full.num_tokens - 100,
        max_new_tokens=9,
    )
    assert prompt.num_dropped == 3
    assert prompt.notice == (
        f'the context is full ({full.num_tokens - 100} tokens): the 3 oldest '
        'turns were dropped, their images kept.'
    )
    ids, tokenizer = prompt.tokenized.ids, tiny_model.decoder.tokenizer
    assert ids[0] == tokenizer.bos_token_id and len(prompt.images) == 2
    assert all(
        torch.equal(a, b)
        for a, b in zip(prompt.images, full.images, strict=True)
    )
    text = ''.join(
        '@' if i == IMAGE_SLOT else tokenizer.decode([0, i])[5:]
        for i in ids[1:]
    )
    assert text.split('Human:')[0].strip().endswith('questions.###')
    first = text.split('Human:')[1]
    assert first.count('@') == 2 and 'question 3' in first
    assert prompt.num_tokens + 9 <= full.num_tokens - 100
    assert prompt.num_tokens == len(ids) + 2 * (tiny_model.neck.num_tokens - 1)
    assert 'question 0' not in text


def test_turns_that_exactly_fit_are_kept(tiny_model):
    turns = long_chat(4)
    tokens = build_prompt(tiny_model, turns, [], max_new_tokens=9).num_tokens
    for room, dropped in ((9, 0), (8, 1)):
        prompt = build_prompt(
            tiny_model,
            turns,
            [],
            max_context=tokens + room,
            max_new_tokens=9,
        )
        assert prompt.num_dropped == dropped
    assert 'the 1 oldest turn was dropped.' in prompt.notice


def test_too_long_last_question_is_refused(tiny_model):
    with pytest.raises(
        ContextLengthError,
        match=r'last question with 2 images takes \d+ tokens .* holds 60;',
    ):
        build_prompt(
            tiny_model,
            long_chat(3, 2),
            [image(0), image(1)],
            max_context=60,
            max_new_tokens=30,
        )
    with pytest.raises(
        ContextLengthError, match='up to 3000, but .* holds 2048'
    ):
        build_prompt(tiny_model, [Turn('a')], [], max_new_tokens=3000)


@pytest.mark.parametrize(
    'old, new',
    [
        ('row', 'tokenized'),
        ('tokens', 'num_tokens'),
        ('dropped', 'num_dropped'),
    ],
)
def test_old_attribute_names_warn(tiny_model, old, new):
    prompt = build_prompt(tiny_model, [Turn('a')], [])
    with pytest.warns(DeprecationWarning, match=f'use ChatPrompt.{new}'):
        assert getattr(prompt, old) == getattr(prompt, new)
