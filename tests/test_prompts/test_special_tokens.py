# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Special tokens are found, and BOS is added where the tokenizer adds it."""

import pytest
from tests.chat_families import FAMILIES, family_tokenizer

from minigpt4.prompts import IMAGE_SLOT, Turn, get_template, render, tokenize
from minigpt4.prompts.special_tokens import (
    adds_bos,
    special_token_pattern,
    special_tokens,
)

ADDS_BOS = {'llama_3', 'mistral_v0_1', 'mistral_v0_3', 'gemma'}


@pytest.mark.parametrize('family', FAMILIES)
def test_bos_is_added_where_the_tokenizer_adds_it(family):
    tokenizer = family_tokenizer(family)
    assert adds_bos(tokenizer) == (family in ADDS_BOS)
    caption = tokenize(
        render([Turn('<ImageHere>', 'a cat')], get_template('bare')), tokenizer
    )
    begin = [tokenizer.bos_token_id] if family in ADDS_BOS else []
    assert caption.ids[: len(begin) + 1] == [*begin, IMAGE_SLOT]
    assert tokenizer.decode(caption.ids[len(begin) + 1 :]) == 'a cat\n'


def test_bos_is_added_for_llama(llama_tokenizer, tiny_tokenizer):
    assert adds_bos(llama_tokenizer) and adds_bos(tiny_tokenizer)


def test_longest_special_token_is_found():
    tokenizer = family_tokenizer('phi_3')
    assert {'<|user|>', '<s>', '<unk>'} < {*special_tokens(tokenizer)}
    found = special_token_pattern(tokenizer).findall('a<|end|><s><table>')
    assert found == ['<|end|>', '<s>']
