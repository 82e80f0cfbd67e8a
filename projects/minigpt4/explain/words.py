# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Join the tokens of an answer to words."""

import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

_REPLACEMENT = '\ufffd'  # what a tokenizer gives for an incomplete character
_INNER = "'\u2019-_"  # punctuation inside of words


class Word(NamedTuple):
    """A word of an answer, or punctuation between words.

    Attributes:
        text: The word.
        before: The blanks before it.
        start: Index of its first token in the answer.
        stop: Index behind its last token.
    """

    text: str
    before: str
    start: int
    stop: int


def split_words(
    tokenizer: Any, token_ids: Sequence[int], text: str
) -> list[Word]:
    """Join the tokens of an answer to words.

    A word begins behind a blank, where letters or digits meet punctuation,
    and at each wide character (Chinese, Japanese, Korean). A token is never
    divided: one that holds two words counts as one. A token of blanks, or of
    a part of a character, belongs to the word that follows it.

    Args:
        tokenizer: The LLM's tokenizer.
        token_ids: Ids of the answer; those of a stop string may follow.
        text: The answer, stripped and without its stop string.

    Returns:
        The words, in order. The tokens of each begin where those of the one
        before it end; the first begins with token 0. Tokens behind the text
        belong to no word.
    """
    pieces = _token_texts(tokenizer, token_ids)
    complete = ''.join(pieces)
    offset = len(complete) - len(complete.lstrip())
    end = offset + len(text)
    words: list[Word] = []
    first = position = 0
    blanks = ''
    for number, piece in enumerate(pieces):
        if position >= end and piece:
            break
        piece, position = piece[: end - position], position + len(piece)
        visible = piece.strip()
        if not visible:
            blanks += piece
            continue
        lead = piece.index(visible)
        blanks += piece[:lead]
        if words and not blanks and _joins(words[-1].text[-1], visible[0]):
            last = words[-1]
            words[-1] = last._replace(
                text=last.text + visible, stop=number + 1
            )
        else:
            words.append(Word(visible, blanks, first, number + 1))
        first = number + 1
        blanks = piece[lead + len(visible) :]
    return words


def _token_texts(tokenizer: Any, token_ids: Sequence[int]) -> list[str]:
    """The text that each token adds.

    It is empty for the first tokens of a character of several tokens.
    """
    pieces: list[str] = []
    length = 0
    for stop in range(1, len(token_ids) + 1):
        text = tokenizer.decode(
            list(token_ids[:stop]),
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )
        if text.endswith(_REPLACEMENT) and stop < len(token_ids):
            pieces.append('')
            continue
        pieces.append(text[length:])
        length = len(text)
    return pieces


def _joins(last: str, first: str) -> bool:
    """Whether two neighbouring characters belong to one word."""
    if any(unicodedata.east_asian_width(c) in 'WF' for c in (last, first)):
        return False
    return _is_of_word(last) == _is_of_word(first)


def _is_of_word(character: str) -> bool:
    return (
        character.isalnum()
        or character in _INNER
        or unicodedata.category(character).startswith('M')
    )
