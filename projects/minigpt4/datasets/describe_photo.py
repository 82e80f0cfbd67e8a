# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Join the captions of a photograph to one description.

The descriptions of stage 2 in the paper were written by the model and curated
(section 3.2). Where several people described the same photograph in one
sentence each, these sentences together are a description of several
sentences, which a rule can order and select.
"""

import re
from collections.abc import Sequence

MIN_WORDS = 40  # a shorter description takes further captions
MAX_WORDS = 100
_MIN_NEW = 0.34  # of the content words of a caption
_FUNCTION_WORDS = frozenset(
    'a an the of in on at with and is are to it its his her their that this '
    'there for by from up down some as be while into out over near next very '
    'has have he she they who which'.split()
)
_SUFFIXES = ('ing', 'es', 's', 'ed')
_COUNTS = {'one': 1, 'two': 2, 'three': 3, 'four': 4, 'five': 5}
_PEOPLE = re.compile(
    r'\b(a|one|two|three|four|five)\b(?: \w+)? '
    r'(?:man|woman|men|women|people|boys?|girls?|person|child)\b'
)


def describe(captions: Sequence[str]) -> str:
    """Join the captions of one photograph.

    1. Each caption becomes one sentence.
    2. The sentences are sorted by the share of content words that they have
       in common with the others; those with another number of people than
       most state come last.
    3. Sentences are taken in this order if at least a third of their content
       words is new, then the others until there are ``MIN_WORDS`` words. A
       sentence that would exceed ``MAX_WORDS`` is omitted.

    Args:
        captions: Captions of one photograph, at least one.

    Returns:
        The description; the same for the same captions.
    """
    sentences = list(dict.fromkeys(map(_sentence, captions)))
    words = [_content_words(sentence) for sentence in sentences]
    counts = [_count_people(sentence) for sentence in sentences]
    known = [count for count in counts if count is not None]
    usual = max(known, key=known.count) if known else None

    def rank(i: int) -> tuple[bool, float, int]:
        contradicts = counts[i] is not None and counts[i] != usual
        common = sum(_overlap(words[i], other) for other in words)
        return contradicts, -common, i

    order = sorted(range(len(sentences)), key=rank)
    chosen: list[int] = []
    used: set[str] = set()
    length = 0
    for needs_new_words in (True, False):
        for i in order:
            size = len(sentences[i].split())
            if i in chosen or (chosen and length + size > MAX_WORDS):
                continue
            new = len(words[i] - used) / max(1, len(words[i]))
            if needs_new_words and new < _MIN_NEW:
                continue
            if not needs_new_words and length >= MIN_WORDS:
                break
            chosen.append(i)
            used |= words[i]
            length += size
    return ' '.join(sentences[i] for i in chosen)


def _sentence(caption: str) -> str:
    """Return a caption with a capital letter and a full stop."""
    text = ' '.join(caption.split()).strip('"').rstrip(' .,;!')
    text = re.sub(r'\s+([,.;])', r'\1', text)
    if text.isupper():
        text = text.lower()
    return text[:1].upper() + text[1:] + ('' if text.endswith('?') else '.')


def _content_words(text: str) -> set[str]:
    """Return the words without function words and common suffixes."""
    words = re.findall(r'\w+', text.lower())
    return {_stem(word) for word in words if word not in _FUNCTION_WORDS}


def _stem(word: str) -> str:
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) > len(suffix) + 2:
            return word.removesuffix(suffix)
    return word


def _overlap(first: set[str], second: set[str]) -> float:
    return len(first & second) / max(1, min(len(first), len(second)))


def _count_people(text: str) -> int | None:
    """Return the number of people that a text states; None without one."""
    match = _PEOPLE.search(text.lower())
    return None if match is None else _COUNTS.get(match[1], 1)
