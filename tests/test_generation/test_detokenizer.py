# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Returned text never changes: complete characters, no stop string."""

import random

import pytest

from minigpt4.generation.detokenizer import Detokenizer


def ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False).input_ids


def stream(tokenizer, token_ids, stop=('###',)):
    """The pieces of each token and of the end, and the detokenizer."""
    out = Detokenizer(tokenizer, stop)
    pieces = []
    for token in token_ids:
        pieces.append(out.add(token))
        if out.stopped:
            break
    pieces.append(out.close())
    assert ''.join(pieces) == out.text
    return pieces, out


@pytest.fixture(params=['tiny_tokenizer', 'llama_tokenizer'])
def tokenizer(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize('text', ['a red circle', 'a  blue.\n\nThe end. '])
def test_text_matches_the_decoded_answer(tokenizer, text):
    token_ids = ids(tokenizer, text)
    pieces, out = stream(tokenizer, token_ids)
    assert out.text == tokenizer.decode(token_ids).strip() == text.strip()
    assert sum(map(bool, pieces)) > 1, 'in several pieces'
    assert not out.stopped


def test_only_a_window_of_a_long_answer_is_decoded(tokenizer):
    draw = random.Random(0)
    text = ' '.join(
        draw.choices('red the circle née 日本 😀 of'.split(), k=300)
    )
    token_ids = ids(tokenizer, text)
    longest = 0

    class Counting:
        def decode(self, token_ids, **kwargs):
            nonlocal longest
            longest = max(longest, len(token_ids))
            return tokenizer.decode(token_ids, **kwargs)

    _, out = stream(Counting(), token_ids)
    assert out.text == text
    assert longest < 64 < len(token_ids)


@pytest.mark.parametrize(
    'text', ['a circle###', 'a circle ###', 'a ###Human: b']
)
def test_both_tokenizations_of_the_stop_string_are_found(tokenizer, text):
    pieces, out = stream(tokenizer, ids(tokenizer, text))
    assert out.text == text.split('###')[0].strip() and out.stopped
    assert not any('#' in piece for piece in pieces)


def test_a_stop_string_of_several_tokens_is_not_returned(llama_tokenizer):
    """``##`` and ``#``, or three of ``#``: the glued ``###`` of stage 2."""
    (hash_,) = {*ids(llama_tokenizer, 'a#')} - {*ids(llama_tokenizer, 'a')}
    glued = ids(llama_tokenizer, 'a circle')
    for end in ([2277, 29937], [hash_] * 3, [hash_, 2277]):
        out = Detokenizer(llama_tokenizer, ['###'])
        for token in [*glued, *end]:
            assert not out.stopped
            out.add(token)
            assert '#' not in out.text
        assert out.stopped and out.text == 'a circle'
        assert out.exact_stop == '###'


def test_a_prefix_of_a_stop_string_is_returned_at_the_end(tokenizer):
    pieces, out = stream(tokenizer, ids(tokenizer, 'a ## b #'))
    assert out.text == 'a ## b #' and not out.stopped
    assert pieces[-1].endswith('#'), 'it is pending until the end'


class TextTokens:
    """A tokenizer whose tokens are texts."""

    def __init__(self, *texts):
        self.texts = texts

    def decode(self, token_ids, **kwargs):
        return ''.join(self.texts[i] for i in token_ids)


def test_text_behind_the_stop_string_in_its_token_is_cut():
    tokenizer = TextTokens('Yes.', '###Human: no', 'x')
    pieces, out = stream(tokenizer, [0, 1, 2])
    assert pieces == ['Yes.', '', ''] and out.text == 'Yes.'
    assert out.exact_stop is None, 'text follows the stop string'


def test_the_first_of_two_stop_strings_in_one_token_ends():
    _, out = stream(TextTokens('a blue b green'), [0], stop=('green', 'blue'))
    assert out.text == 'a'


def test_the_first_of_several_stop_strings_ends(tokenizer):
    token_ids = ids(tokenizer, 'red blue green red')
    _, out = stream(tokenizer, token_ids, stop=('green', 'blue'))
    assert out.text == 'red' and out.exact_stop == 'blue'


def test_a_character_of_several_tokens_is_returned_complete(tokenizer):
    text = 'é 日本 😀😀 ü'
    token_ids = ids(tokenizer, text)
    assert len(token_ids) > len(text), 'bytes are tokens'
    pieces, out = stream(tokenizer, token_ids)
    assert out.text == text
    assert not any('\ufffd' in piece for piece in pieces)
    assert '😀' in pieces or '😀😀' in pieces


def test_an_incomplete_character_at_the_end_is_dropped(tokenizer):
    token_ids = ids(tokenizer, 'a 😀')
    _, out = stream(tokenizer, token_ids[:-1])
    assert out.text == 'a' and not out.complete
    assert stream(tokenizer, token_ids)[1].complete


def test_special_tokens_are_not_text(tokenizer):
    token_ids = ids(tokenizer, 'a red')
    mixed = [tokenizer.bos_token_id, *token_ids, tokenizer.bos_token_id]
    assert stream(tokenizer, mixed)[1].text == 'a red'


def test_surrounding_blanks_are_not_returned(tokenizer):
    pieces, out = stream(tokenizer, ids(tokenizer, ' \n red  \n'))
    assert out.text == 'red'
    _, out = stream(tokenizer, ids(tokenizer, '\nred'), stop=['\n'])
    assert out.text == '' and out.stopped, 'a stop string may be a blank'


@pytest.mark.parametrize(
    'min_tokens, text, stopped',
    [
        (0, '', True),
        (1, '### b', True),  # at the second of them
        (2, '### b', True),
        (3, '### b ###', False),
        (9, '### b ###', False),
    ],
)
def test_no_stop_string_ends_below_the_minimum(min_tokens, text, stopped):
    """As vLLM's min_tokens (vllm #21987)."""
    tokenizer = TextTokens('###', ' b ', '###')
    out = Detokenizer(tokenizer, ['###'], min_tokens)
    pieces = [out.add(token) for token in range(3) if not out.stopped]
    pieces.append(out.close())
    assert (''.join(pieces), out.text, out.stopped) == (text, text, stopped)


def test_a_stop_string_beginning_below_the_minimum_does_not_end():
    tokenizer = TextTokens('a ', '##', '#', ' b', '###')
    out = Detokenizer(tokenizer, ['###'], min_tokens=2)
    for token in range(5):
        assert not out.stopped
        out.add(token)
    assert out.stopped and out.text == 'a ### b'


def test_blanks_below_the_minimum_are_not_a_stop_string():
    tokenizer = TextTokens('a', '\n', 'b', '\n')
    out = Detokenizer(tokenizer, ['\n'], min_tokens=2)
    for token in range(4):
        assert not out.stopped
        out.add(token)
    assert out.stopped and out.text == 'a\nb'
