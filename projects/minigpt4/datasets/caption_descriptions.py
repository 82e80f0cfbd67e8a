# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""One description of an image from its captions and object classes.

For stage 2 without written descriptions. Each sentence is a caption
that a person wrote; nothing is generated:

1. Captions are cleaned, and equal ones are dropped.
2. The caption that agrees most with the others comes first. Captions whose
   number of people differs from that of most captions come last.
3. Captions follow at least 30 % of whose words are new. A model that learns
   from paraphrases repeats its sentences.
4. Object classes that no chosen caption names are listed in one sentence.
"""

import re
from collections.abc import Callable, Collection, Sequence

# The small model answers with fewer words than it was trained with: after
# descriptions from 40 words on 23 % of its answers had fewer than 40.
MIN_WORDS, MAX_WORDS = 50, 120
# room for the sentence of objects
_CAPTION_WORDS = MAX_WORDS - 20
_MAX_OBJECTS = 4
# share of a caption's words that the text must not have yet
_NEW_WORDS = 0.3
_COMMON_WORDS = frozenset(
    'a an the of in on at with and is are to it its his her their that this '
    'there for by from up down some as be while into out over near next very '
    'has have he she they who which'.split()
)
_NUMBERS = {'a': 1, 'one': 1, 'two': 2, 'three': 3, 'four': 4, 'five': 5}
_PEOPLE = re.compile(
    rf'\b({"|".join(_NUMBERS)})\b(?: \w+)? (?:man|woman|men|women|people|'
    r'boys?|girls?|person|child|children)\b'
)
_PLURAL_CLASSES = ('scissors', 'skis')


def describe(
    captions: Sequence[str],
    classes: Sequence[str] = (),
    named: Callable[[str], Collection[str]] = str.split,
) -> str | None:
    """Join captions of an image to a description of 50 to 120 words.

    Args:
        captions: The captions, at least one.
        classes: The object classes in the image.
        named: Function of a text to the classes that it names.

    Returns:
        The description; None if it is too short.
    """
    texts = list(dict.fromkeys(map(_sentence, captions)))
    words = [_content_words(text) for text in texts]
    usual = _most_frequent([n for n in map(_num_people, texts) if n])

    def rank(i: int) -> tuple[bool, float, int]:
        number = _num_people(texts[i])
        differs = None not in (usual, number) and number != usual
        agreement = sum(
            len(words[i] & other) / max(1, min(len(words[i]), len(other)))
            for other in words
        )
        return differs, -agreement - 0.01 * len(words[i]), i

    order = sorted(range(len(texts)), key=rank)
    chosen: list[int] = []
    seen: set[str] = set()
    length = 0
    for i in order:
        number = len(texts[i].split())
        new = len(words[i] - seen) / max(1, len(words[i]))
        if new >= _NEW_WORDS and length + number <= _CAPTION_WORDS:
            chosen.append(i)
            seen |= words[i]
            length += number
    text = ' '.join(texts[i] for i in chosen)
    known = set(named(text))
    others = sorted(name for name in set(classes) if name not in known)
    if others:
        text += f' The photo also shows {_listed(others[:_MAX_OBJECTS])}.'
    return text if MIN_WORDS <= len(text.split()) <= MAX_WORDS else None


def _sentence(text: str) -> str:
    """A caption with a capital letter at its start and one full stop."""
    text = re.sub(r'\s+', ' ', text).strip(' "').rstrip(' .,;!')
    text = re.sub(r' ([,.;])', r'\1', text)
    if text.isupper():
        text = text.lower()
    return f'{text[:1].upper()}{text[1:]}.'


def _content_words(text: str) -> set[str]:
    """The stems of the words that carry meaning."""
    words = re.findall('[a-z]+', text.lower())
    return {_stem(word) for word in words if word not in _COMMON_WORDS}


def _stem(word: str) -> str:
    for end in ('ing', 'es', 's', 'ed'):
        if word.endswith(end) and len(word) > len(end) + 2:
            return word[: -len(end)]
    return word


def _num_people(text: str) -> int | None:
    """The number of people that a caption states."""
    found = _PEOPLE.search(text.lower())
    return _NUMBERS[found[1]] if found else None


def _most_frequent(numbers: Sequence[int]) -> int | None:
    return max(numbers, key=numbers.count) if numbers else None


def _listed(classes: Sequence[str]) -> str:
    """``a chair, an orange and people``."""
    items = [
        'people'
        if name == 'person'
        else name
        if name in _PLURAL_CLASSES
        else f'{"an" if name[0] in "aeiou" else "a"} {name}'
        for name in classes
    ]
    return ' and '.join(filter(None, (', '.join(items[:-1]), items[-1])))
