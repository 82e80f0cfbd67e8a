# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Tokens of an answer to words."""

from types import SimpleNamespace

import pytest

from minigpt4.explain.words import split_words


def fake_tokenizer(pieces):
    """A tokenizer whose token i adds the bytes of piece i."""

    def decode(ids, **_):
        data = b''.join(pieces[i] for i in ids)
        return data.decode('utf-8', 'replace')

    return SimpleNamespace(decode=decode)


def split(*pieces, text=None):
    data = [p.encode() if isinstance(p, str) else p for p in pieces]
    if text is None:
        text = b''.join(data).decode('utf-8', 'replace').strip()
    words = split_words(fake_tokenizer(data), range(len(data)), text)
    return [tuple(word) for word in words]


@pytest.mark.parametrize(
    ('pieces', 'expected'),
    [
        (
            [' A', ' sk', 'ier', '.'],
            [('A', ' ', 0, 1), ('skier', ' ', 1, 3), ('.', '', 3, 4)],
        ),
        # a token of blanks belongs to the word that follows
        (['a', ' ', 'b'], [('a', '', 0, 1), ('b', ' ', 1, 3)]),
        (['a\n', 'b'], [('a', '', 0, 1), ('b', '\n', 1, 2)]),
        # a character of two tokens
        (['x', b' \xc3', b'\xa4y'], [('x', '', 0, 1), ('äy', ' ', 1, 3)]),
        (['she', "'s", '!', '!'], [("she's", '', 0, 2), ('!!', '', 2, 4)]),
        (['一', '个'], [('一', '', 0, 1), ('个', '', 1, 2)]),
        # a token is not divided
        (['a b', 'c'], [('a bc', '', 0, 2)]),
        ([], []),
        ([' ', '\n'], []),
    ],
)
def test_words_of_tokens(pieces, expected):
    assert split(*pieces) == expected


def test_tokens_of_a_stop_string_belong_to_no_word():
    assert split('red', ' box', '#', '##', text='red box') == [
        ('red', '', 0, 1),
        ('box', ' ', 1, 2),
    ]
    # a token that begins with the answer and ends with the stop string
    assert split('red', '.###', text='red.')[1] == ('.', '', 1, 2)


def test_an_incomplete_character_at_the_end_is_no_word():
    assert split('red', b' \xc3', text='red') == [('red', '', 0, 1)]


def test_words_of_the_real_tokenizer(nano):
    text = 'In the top left there is a large orange triangle.'
    ids = nano.decoder.tokenizer(text, add_special_tokens=False).input_ids
    words = split_words(nano.decoder.tokenizer, ids, text)
    assert ''.join(w.before + w.text for w in words) == text
    assert [w.text for w in words] == [*text[:-1].split(), '.']
    assert words[0].start == 0 and words[-1].stop == len(ids)
    for before, after in zip(words, words[1:]):
        assert before.stop == after.start
