# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Rules on a text alone. Each returns why it objects, or None."""

import re
import unicodedata
from collections.abc import Sequence

from .languages import language_confidences

_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_SENTENCE_END = re.compile(r'(?<=[.!?])["\'”’)\]]*\s+|\n\s*\n')
_END = re.compile(r'[.!?…]["\'”’)\]]*$')
_LANGUAGE_CHARACTERS = 40  # a shorter sentence says too little
# categories of letters, marks, digits, punctuation, spaces, currency
_PLAIN = ('L', 'M', 'N', 'P', 'Zs', 'Sc')
_DAMAGED = re.compile('[\ufffd\ue000-\uf8ff\x00-\x08\x0b\x0c\x0e-\x1f\x7f]')


def words(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return [word.casefold() for word in _WORD.findall(text)]


def sentences(text: str) -> list[str]:
    """The sentences of a text; an empty line ends one too."""
    parts = (part.strip() for part in _SENTENCE_END.split(text))
    return [part for part in parts if part]


def fix_encoding(text: str) -> str:
    """Undo wrong decodings ("â€™" for an apostrophe), as far as possible."""
    import ftfy

    return ftfy.fix_text(
        text,
        unescape_html=False,
        uncurl_quotes=False,
        fix_latin_ligatures=False,
        fix_character_width=False,
        normalization=None,
    )


def damaged_characters(text: str) -> str | None:
    """Characters that were lost in a wrong decoding."""
    found = _DAMAGED.search(text)
    if found is None:
        return None
    return (
        f'the text has the damaged character U+{ord(found[0]):04X} at '
        f'position {found.start() + 1}.'
    )


def length(text: str, min_words: int, max_words: int) -> str | None:
    """Fewer or more words than allowed."""
    number = len(words(text))
    if number < min_words:
        return f'the text has {number} words, fewer than {min_words}.'
    if number > max_words:
        return f'the text has {number} words, more than {max_words}.'
    return None


def contains(text: str, phrases: Sequence[str], what: str) -> str | None:
    """One of several phrases, in any case."""
    plain = _plain_quotes(text)
    for phrase in phrases:
        if _plain_quotes(phrase) in plain:
            return f'the text has the {what} "{phrase}".'
    return None


def meaningless_characters(text: str, max_share: float) -> str | None:
    """Too many characters that are no letters, digits or punctuation."""
    odd = [
        char
        for char in text
        if not (
            char.isspace() or unicodedata.category(char).startswith(_PLAIN)
        )
    ]
    if text and len(odd) > max_share * len(text):
        shown = ''.join(dict.fromkeys(odd))[:10]
        return (
            f'{len(odd)} of {len(text)} characters are no letters, digits or '
            f'punctuation ({shown}).'
        )
    return None


def repetition(text: str, max_share: float, run: int) -> str | None:
    """Sentences or word sequences that come again.

    Args:
        text: The text.
        max_share: The largest share of sequences of four words that occurred
            before in the text.
        run: This many times the same word in succession is too much.
    """
    found = words(text)
    for start in range(len(found) - run + 1):
        if len(set(found[start : start + run])) == 1:
            return f'the word "{found[start]}" comes {run} times in a row.'
    sequences = [tuple(found[i : i + 4]) for i in range(len(found) - 3)]
    if not sequences:
        return None
    again = len(sequences) - len(set(sequences))
    share = again / len(sequences)
    if share > max_share:
        return (
            f'{share:.0%} of the sequences of four words come again, more '
            f'than {max_share:.0%}.'
        )
    return None


def fragments(text: str, min_words: int, max_share: float) -> str | None:
    """Too many sentences of a few words."""
    parts = sentences(text)
    short = [part for part in parts if len(words(part)) < min_words]
    if parts and len(short) > max_share * len(parts):
        return (
            f'{len(short)} of {len(parts)} sentences have fewer than '
            f'{min_words} words, e.g. "{short[0][:40]}".'
        )
    return None


def unfinished(text: str) -> str | None:
    """A text that does not end with the end of a sentence."""
    if _END.search(text.rstrip()):
        return None
    return f'the text ends in the middle of a sentence ("{text[-30:]}").'


def other_language(text: str, min_english: float) -> str | None:
    """A text, or a longer sentence of it, that is not English.

    Args:
        text: The text.
        min_english: English is accepted from this probability on, and always
            where it is the likeliest language. There are 75 languages, so
            that even a plain sentence may have a low one.
    """
    parts = [text]
    parts += [p for p in sentences(text) if len(p) >= _LANGUAGE_CHARACTERS]
    for part in parts:
        if not any(char.isalpha() for char in part):
            continue
        confidences = language_confidences(part)
        language = next(iter(confidences), 'no language')
        confidence = confidences.get('English', 0.0)
        if language != 'English' and confidence < min_english:
            return (
                f'"{part[:40]}" is {language} rather than English '
                f'(probability of English {confidence:.2f}).'
            )
    return None


def _plain_quotes(text: str) -> str:
    return text.casefold().replace('’', "'")
