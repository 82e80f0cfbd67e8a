# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""What is shown of an answer is certain, whole characters, never a stop."""

import random

import pytest

from minigpt4.generation.detokenizer import Detokenizer


def ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False).input_ids


def stream(tokenizer, token_ids, stop=('###',)):
    """The pieces of each token and of the end, and the closed stream."""
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
def test_text_is_that_of_the_whole_answer(tokenizer, text):
    said = ids(tokenizer, text)
    pieces, out = stream(tokenizer, said)
    assert out.text == tokenizer.decode(said).strip() == text.strip()
    assert sum(map(bool, pieces)) > 1, 'it comes in pieces'
    assert not out.stopped


def test_a_long_answer_is_not_decoded_again_and_again(tokenizer):
    draw = random.Random(0)
    text = ' '.join(
        draw.choices('red the circle née 日本 😀 of'.split(), k=300)
    )
    said = ids(tokenizer, text)
    longest = 0

    class Counting:
        def decode(self, token_ids, **kwargs):
            nonlocal longest
            longest = max(longest, len(token_ids))
            return tokenizer.decode(token_ids, **kwargs)

    _, out = stream(Counting(), said)
    assert out.text == text
    assert longest < 64 < len(said)


@pytest.mark.parametrize(
    'text', ['a circle###', 'a circle ###', 'a ###Human: b']
)
def test_both_spellings_of_the_stop_string(tokenizer, text):
    pieces, out = stream(tokenizer, ids(tokenizer, text))
    assert out.text == text.split('###')[0].strip() and out.stopped
    assert not any('#' in piece for piece in pieces)


def test_stop_string_split_over_tokens_is_never_shown(llama_tokenizer):
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
        assert out.ended_by == '###'


def test_what_only_began_like_a_stop_string_is_shown(tokenizer):
    pieces, out = stream(tokenizer, ids(tokenizer, 'a ## b #'))
    assert out.text == 'a ## b #' and not out.stopped
    assert pieces[-1].endswith('#'), 'it waited for the end'


class Glued:
    """A tokenizer whose tokens are whole sentences."""

    def __init__(self, *texts):
        self.texts = texts

    def decode(self, token_ids, **kwargs):
        return ''.join(self.texts[i] for i in token_ids)


def test_text_in_the_stop_tokens_is_cut():
    tokenizer = Glued('Yes.', '###Human: no', 'x')
    pieces, out = stream(tokenizer, [0, 1, 2])
    assert pieces == ['Yes.', '', ''] and out.text == 'Yes.'
    assert out.ended_by is None, 'its tokens are more than the stop string'


def test_first_of_two_stop_strings_in_one_token_counts():
    _, out = stream(Glued('a blue b green'), [0], stop=('green', 'blue'))
    assert out.text == 'a'


def test_first_of_several_stop_strings_counts(tokenizer):
    said = ids(tokenizer, 'red blue green red')
    _, out = stream(tokenizer, said, stop=('green', 'blue'))
    assert out.text == 'red' and out.ended_by == 'blue'


def test_a_character_is_shown_whole(tokenizer):
    text = 'é 日本 😀😀 ü'
    said = ids(tokenizer, text)
    assert len(said) > len(text), 'bytes are tokens'
    pieces, out = stream(tokenizer, said)
    assert out.text == text
    assert not any('\ufffd' in piece for piece in pieces)
    assert '😀' in pieces or '😀😀' in pieces


def test_half_a_character_at_the_end_is_left_out(tokenizer):
    said = ids(tokenizer, 'a 😀')
    _, out = stream(tokenizer, said[:-1])
    assert out.text == 'a' and not out.whole
    assert stream(tokenizer, said)[1].whole


def test_special_tokens_are_no_text(tokenizer):
    said = ids(tokenizer, 'a red')
    mixed = [tokenizer.bos_token_id, *said, tokenizer.bos_token_id]
    assert stream(tokenizer, mixed)[1].text == 'a red'


def test_blanks_around_are_not_shown(tokenizer):
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
def test_no_stop_text_counts_below_the_minimum(min_tokens, text, stopped):
    """As vLLM's min_tokens (vllm #21987)."""
    tokenizer = Glued('###', ' b ', '###')
    out = Detokenizer(tokenizer, ['###'], min_tokens)
    pieces = [out.add(token) for token in range(3) if not out.stopped]
    pieces.append(out.close())
    assert (''.join(pieces), out.text, out.stopped) == (text, text, stopped)


def test_a_stop_text_that_begins_below_the_minimum_is_none():
    tokenizer = Glued('a ', '##', '#', ' b', '###')
    out = Detokenizer(tokenizer, ['###'], min_tokens=2)
    for token in range(5):
        assert not out.stopped
        out.add(token)
    assert out.stopped and out.text == 'a ### b'


def test_blanks_below_the_minimum_are_no_stop_text():
    tokenizer = Glued('a', '\n', 'b', '\n')
    out = Detokenizer(tokenizer, ['\n'], min_tokens=2)
    for token in range(4):
        assert not out.stopped
        out.add(token)
    assert out.stopped and out.text == 'a\nb'
