# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A piece of a prompt has the ids that it has in the complete text."""

import pytest
from tests.chat_families import family_tokenizer

from minigpt4.prompts.context_encoder import ContextEncoder, context_encoder


def encode(tokenizer, text, context, *spans):
    return context_encoder(tokenizer).encode(text, spans, context)


@pytest.mark.parametrize(
    ('context', 'text'),
    [
        ('[INST]', ' The sky'),
        ('[INST]', 'The sky'),
        ('</s>', ' a cat'),
        ('</s>', 'a cat'),
        ('a cat', ' is'),
    ],
)
def test_pieces_have_the_ids_of_the_complete_text(tokenizer, context, text):
    complete = tokenizer(context + text, add_special_tokens=False).input_ids
    before = tokenizer(context, add_special_tokens=False).input_ids
    assert complete[: len(before)] == before
    assert before + encode(tokenizer, text, context) == complete


def test_piece_at_the_start_has_the_ids_of_a_text(tokenizer):
    text = 'What is it?'
    expected = tokenizer(text, add_special_tokens=False).input_ids
    assert encode(tokenizer, text, '') == expected
    assert encode(tokenizer, '', '') == encode(tokenizer, '', 'a') == []


def test_no_space_is_added_within_a_text():
    """Of Mistral v0.3, at the start only; of Gemma, never."""
    for family in ('mistral_v0_3', 'gemma'):
        tokenizer = family_tokenizer(family)
        for context in ('<ImageHere>', 'is'):
            ids = encode(tokenizer, '</Img>', context)
            assert ''.join(tokenizer.convert_ids_to_tokens(ids)) == '</Img>'


def test_token_of_two_pieces_is_split(tokenizer):
    """``circle`` is one token, of which each piece has a part."""
    assert len(encode(tokenizer, ' circle', 'red')) == 1
    ids = encode(tokenizer, 'rcle', 'red ci')
    assert tokenizer.decode(ids).strip() == 'rcle'


def test_blanks_behind_a_special_token_belong_to_it():
    tokenizer = family_tokenizer('phi_3')
    ids = encode(tokenizer, '\n<|user|>\nHi', '<|end|>', (0, 10))
    expected = tokenizer('<|end|>\n<|user|>\nHi', add_special_tokens=False)
    assert ids == expected.input_ids[1:]
    assert encode(tokenizer, '\n', '<|end|>') == []


def test_special_tokens_are_ids_only_where_the_template_wrote_them():
    tokenizer = family_tokenizer('smollm2')
    text = 'a<|im_end|>b<|im_end|>'
    end = tokenizer.convert_tokens_to_ids('<|im_end|>')
    ids = encode(tokenizer, text, '<|im_start|>', (12, 22))
    assert ids.count(end) == 1 and ids[-1] == end
    assert tokenizer.decode(ids) == text


def test_tokenizer_itself_is_not_changed():
    tokenizer = family_tokenizer('qwen3')
    size = len(tokenizer)
    text = '<|im_start|>user'
    before = tokenizer(text).input_ids
    encode(tokenizer, text, '', (0, 12))
    assert len(tokenizer) == size and tokenizer(text).input_ids == before


def test_control_character_is_refused():
    tokenizer = family_tokenizer('smollm2')
    with pytest.raises(ValueError, match=r'control character \(U\+0002\)'):
        encode(tokenizer, 'a\x021\x03', '')


def test_tokenizer_of_another_library_is_refused():
    class Slow:
        name_or_path = '/llms/slow'
        added_tokens_decoder: dict = {}

    with pytest.raises(ValueError, match='/llms/slow does not run in the'):
        ContextEncoder(Slow())
