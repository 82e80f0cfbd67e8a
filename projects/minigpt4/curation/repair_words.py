# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Numbers and nouns of English descriptions, without a model.

The nouns are a guess: the last word of a group of words that begins with an
article, another determiner, a number or a preposition. ``docs/curation.md``
has its measured errors; ``repair_words.json`` has the lists of words.
"""

import difflib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..evaluation.object_words import singular

_TOKEN = re.compile(
    r"\d+(?:[.,:/]\d+)*|[^\W\d_]+(?:['’-][^\W\d_]+)*|[^\w\s]", re.UNICODE
)
_UNITS = dict(
    zip(
        'zero one two three four five six seven eight nine ten eleven twelve '
        'thirteen fourteen fifteen sixteen seventeen eighteen '
        'nineteen'.split(),
        range(20),
    )
)
_TENS = dict(
    zip(
        'twenty thirty forty fifty sixty seventy eighty ninety'.split(),
        range(20, 100, 10),
    )
)
_SCALES = dict(hundred=100, thousand=1000, million=10**6, dozen=12)
# of a draft only: "the couple" of a repair may be a man and a woman
_PAIRS = dict(pair=2, couple=2, both=2, twin=2, trio=3, single=1)


_LISTS = json.loads(
    Path(__file__).with_name('repair_words.json').read_text('utf-8')
)
_DETERMINERS = frozenset(_LISTS['determiners'])
_PREPOSITIONS = frozenset(_LISTS['prepositions'])
_STOP = frozenset(_LISTS['stop_words'])
_VERBS = frozenset(_LISTS['verbs'])
# nouns that state nothing about what is in an image
_GENERIC = frozenset(_LISTS['generic_nouns'])
_ADJECTIVE_ENDINGS = tuple(_LISTS['adjective_endings'])


class Number(NamedTuple):
    """A number of a text.

    Attributes:
        value: Its value, as digits.
        words: As it is written.
        counted: The noun that follows, singular; empty if none does.
    """

    value: str
    words: str
    counted: str


def tokens_of(text: str) -> list[str]:
    """Split a text into words, numbers and marks, in lower case."""
    return _TOKEN.findall(text.lower().replace('’', "'"))


def numbers_of(text: str, pairs: bool = False) -> Iterator[Number]:
    """Find the numbers of a text; "one" and ordinals are none.

    Args:
        text: The text.
        pairs: Whether "pair", "couple", "both" and "trio" count too.
    """
    tokens = tokens_of(text)
    # a number of two words, "twenty-five", is one token too
    tokens = [
        part
        for token in tokens
        for part in (token.split('-') if _is_number(token) else [token])
    ]
    i = 0
    while i < len(tokens):
        start = i
        value = _value(tokens[i], pairs)
        if value is None:
            i += 1
            continue
        i += 1
        number: float = value
        while i < len(tokens):
            word = tokens[i]
            if word in _SCALES:
                number = max(number, 1) * _SCALES[word]
            elif (
                number % 100 >= 20
                and number % 10 == 0
                and (0 < _UNITS.get(word, 0) < 10)
            ):
                number += _UNITS[word]
            elif (
                word == 'and'
                and number >= 100
                and (i + 1 < len(tokens) and _value(tokens[i + 1], False))
            ):
                i += 1
                number += _value(tokens[i], False) or 0
            else:
                break
            i += 1
        if number == 1:
            continue
        group = list(_group(tokens, i))
        yield Number(
            f'{number:g}',
            ' '.join(tokens[start:i]),
            singular(group[-1]) if group else '',
        )


def _is_number(token: str) -> bool:
    first, _, rest = token.partition('-')
    return first in _TENS and rest in _UNITS


def _value(token: str, pairs: bool) -> float | None:
    for words in (_UNITS, _TENS, _SCALES, *((_PAIRS,) if pairs else ())):
        if token in words:
            return words[token]
    if not token[0].isdigit():
        return None
    try:
        return float(token.replace(',', ''))
    except ValueError:  # a time or a fraction: "10:30", "1/2"
        # unique to this text, and equal only to itself
        return float(int.from_bytes(token.encode(), 'big') % 10**9) + 0.5


def nouns_of(text: str) -> list[str]:
    """Guess the nouns of a text, singular, in their order."""
    tokens = tokens_of(text)
    nouns = []
    for i, token in enumerate(tokens):
        starts = token in _DETERMINERS or token in _PREPOSITIONS
        if starts or _value(token, False) is not None:
            group = list(_group(tokens, i + 1))
            if group:
                nouns.append(singular(group[-1]))
    return nouns


def _group(tokens: list[str], start: int) -> Iterator[str]:
    """Yield the words of a noun group: up to a verb, a mark or the like."""
    for i in range(start, len(tokens)):
        word = tokens[i]
        if not word[0].isalpha() or word in _STOP:
            return
        if word in _DETERMINERS or word in _PREPOSITIONS:
            return
        verb = word.endswith(('ing', 'ed')) and len(word) > 4
        if i > start and (verb or is_verb(word) or word.endswith('ly')):
            return
        if _value(word, False) is None:
            yield word


def is_verb(word: str) -> bool:
    """Whether a word is a verb that descriptions often have."""
    return (
        word in _VERBS
        or singular(word) in _VERBS
        or (word.endswith('es') and word[:-2] in _VERBS)
    )


def added_nouns(draft: str, repair: str) -> list[str]:
    """Guess the nouns of a repair that no word of its draft resembles.

    Args:
        draft: The text before the repair.
        repair: The text after it.
    """
    known = {singular(word) for word in tokens_of(draft)}
    present = {singular(word) for word in tokens_of(repair)}
    added = []
    for noun in dict.fromkeys(nouns_of(repair)):
        if len(noun) < 3 or noun in _GENERIC or is_verb(noun):
            continue
        if noun.endswith(('ing', 'ed', *_ADJECTIVE_ENDINGS)):
            continue  # rarely a visible thing
        if not resembles(noun, known, present):
            added.append(noun)
    return added


def resembles(word: str, known: set[str], present: set[str]) -> bool:
    """Whether a word of a draft is the same word, perhaps misspelt.

    Args:
        word: A word of the repair.
        known: Words of the draft, singular.
        present: Words of the repair, singular: a misspelt word of the draft
            is not among them, because the repair replaced it.
    """
    parts = {part for name in known for part in name.split('-')}
    if word in known or word in parts:
        return True
    if set(word.split('-')) <= parts or word.replace('-', '') in known:
        return True
    stem = _stem(word)
    for other in known:
        if _stem(other) == stem:
            return True
        if other in present or len(other) < 3:
            continue
        if word.startswith(other) and 2 * len(other) >= len(word):
            return True  # a word that was cut off
        if other[0] == word[0] and len(word) >= 4:
            similar = difflib.SequenceMatcher(None, word, other).ratio()
            if similar >= (0.7 if len(word) >= 6 else 0.8):
                return True
    return False


def _stem(word: str) -> str:
    """Cut the endings that change a noun into related words."""
    for ending in ('ingly', 'ing', 'ers', 'er', 'ed', 'es', 'y', 'en', 'e'):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word[: -len(ending)]
            break
    if len(word) > 3 and word[-1] == word[-2]:  # "running"
        word = word[:-1]
    return word
