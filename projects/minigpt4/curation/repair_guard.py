# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The repair guard: what did a repair do that it should not?

The language model that repairs a description never sees the image, so what
it adds is not known to be there. The guard compares a repair with its draft
and flags what a person should look at.
"""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ..evaluation.languages import language_confidences
from ..evaluation.object_words import coco_words, singular
from .repair_settings import GuardSettings
from .repair_words import added_nouns, numbers_of, resembles, tokens_of

_WORDS_OF_A_LEAK = 6  # in succession, of the prompt
_FREE_WORDS = 5  # that a repair may add without being "grown"
_MIN_CONFIDENCE = 0.8  # of a language, to name it
_UNLIKELY = 0.2  # confidence of the repair's language in the draft
_MIN_LANGUAGE_WORDS = 5  # fewer have no reliable language
_CONTEXT = 4  # words before a noun in which its count may be
_ENDS_OF_A_COUNT = ('and', 'a', 'an', 'the', ',', '.', ';')
_NOT_A_DESCRIPTION = {
    'prompt_leak',
    'explanation',
    'language_model',
    'marker',
}
_SENTENCE = re.compile(r'[^.!?\n]+')
_FUNCTION_WORDS = frozenset(
    'a an the is are was were be been being am do does has have had of in on '
    'at to by with and or it its he she they his her their there this that '
    'which who'.split()
)
_PERSON_PRONOUNS = frozenset('he she him her his hers who they'.split())
_START = (
    r"(?:sure|certainly|of course|okay|here(?:'s| is| are)|below is|"
    r'the (?:corrected|revised|repaired|fixed|edited)|'
    r'(?:corrected|revised|repaired|fixed|edited|improved) '
    r'(?:paragraph|text|version|description)|'
    r'(?:output|result|answer|paragraph|correction) ?:)'
)
_REMARK = (
    r'(?:\bi (?:have |\'ve )?(?:corrected|removed|fixed|rewritten|rewrote|'
    r'changed|made|replaced|edited)\b|'
    r'\b(?:the|this|your) (?:given |input |original |provided )'
    r'(?:paragraph|text|sentence|description)\b|'
    r'\b(?:paragraph|text) (?:is|was) already correct\b|'
    r'\bno (?:errors?|corrections?|changes?) (?:were |are |is |was )?'
    r'(?:found|needed|necessary|required|made)\b|'
    r'\bnote ?: |\bexplanation ?:|\bchanges made\b|\blet me know\b|'
    r'\bhope this helps\b)'
)
_EXPLANATION = re.compile(rf'^\W*{_START}|{_REMARK}', re.IGNORECASE)
_LANGUAGE_MODEL = re.compile(
    r'\bas an? (?:ai|artificial|language|assistant)\b|\blanguage model\b|'
    r"\b(?:i'?m|i am) (?:sorry|unable|an ai|not able)\b|\bi apologi[sz]e\b|"
    r"\bi (?:cannot|can't|can not) (?:see|view|fix|help|assist|provide|"
    r'access|repair|correct|determine)\b|\bopenai\b|\bchatgpt\b|'
    r'\bplease provide\b',
    re.IGNORECASE,
)
# <think>, </reasoning>, <|im_end|>, [/INST], <<SYS>>, ###
_MARKER = re.compile(
    r'</?[a-z][a-z_]*>|<[|｜][^<>]*[|｜]>|\[/?INST\]|<</?SYS>>|###',
    re.IGNORECASE,
)


class Flag(NamedTuple):
    """What the guard found.

    Attributes:
        reason: The id, a field of :class:`~.repair_settings.GuardSettings`.
        text: One sentence for the reviewer.
        action: ``flag``, ``reject`` or ``fail``.
    """

    reason: str
    text: str
    action: str


class RepairGuard:
    """Compares repairs with their drafts.

    Args:
        settings: What to check, and what follows.
        prompt: The prompt, which a repair should not repeat.
    """

    def __init__(self, settings: GuardSettings, prompt: str) -> None:
        self._settings = settings
        self._prompt = prompt
        checks: dict[str, Callable[[str, str], str | None]] = dict(
            prompt_leak=self._prompt_leak,
            explanation=_explanation,
            language_model=_language_model,
            marker=_marker,
            language=_language,
            added_object=_added_object,
            added_noun=_added_noun,
            added_number=_added_number,
            shrunk=self._shrunk,
            grown=self._grown,
        )
        self._checks = {
            name: check
            for name, check in checks.items()
            if getattr(settings, name) != 'ignore'
        }

    def flags(self, draft: str, repair: str) -> list[Flag]:
        """Return what is suspicious in a repair.

        Raises:
            ImportError: The package of the check ``language`` is missing.
        """
        if draft == repair:
            return []
        found: dict[str, Flag] = {}
        for name, check in self._checks.items():
            # the nouns of an explanation are no news
            if name == 'added_noun' and _NOT_A_DESCRIPTION & set(found):
                continue
            text = check(draft, repair)
            if text is not None:
                action = getattr(self._settings, name)
                found[name] = Flag(name, text, action)
        return [*found.values()]

    def _prompt_leak(self, draft: str, repair: str) -> str | None:
        ours = set(_sequences(self._prompt)) - set(_sequences(draft))
        for words in _sequences(repair):
            if words in ours:
                return f'The repair repeats the prompt: "{" ".join(words)}".'
        return None

    def _shrunk(self, draft: str, repair: str) -> str | None:
        before = len(_content(_unrepeated(draft)))
        after = len(_content(repair))
        if after >= self._settings.min_share * before:
            return None
        return (
            f'The repair has {after} content words, the draft {before} '
            'without repetition.'
        )

    def _grown(self, draft: str, repair: str) -> str | None:
        before, after = len(_content(draft)), len(_content(repair))
        most = max(self._settings.max_share * before, before + _FREE_WORDS)
        if after <= most:
            return None
        return f'The repair has {after} content words, the draft {before}.'


def _explanation(draft: str, repair: str) -> str | None:
    return _new_match(
        _EXPLANATION, draft, repair, 'The repair explains itself'
    )


def _language_model(draft: str, repair: str) -> str | None:
    return _new_match(
        _LANGUAGE_MODEL,
        draft,
        repair,
        'The repair reads as an answer of a language model',
    )


def _marker(draft: str, repair: str) -> str | None:
    return _new_match(
        _MARKER, draft, repair, 'The repair has a tag that is no description'
    )


def _new_match(
    pattern: re.Pattern, draft: str, repair: str, what: str
) -> str | None:
    """Report a match of the repair that the draft does not have."""
    draft, repair = (t.replace('’', "'") for t in (draft, repair))
    known = {match[0].lower() for match in pattern.finditer(draft)}
    for match in pattern.finditer(repair):
        if match[0].lower() not in known:
            return f'{what}: "{match[0].strip()}".'
    return None


def _language(draft: str, repair: str) -> str | None:
    """Compare the languages, of texts that are long enough to have one."""
    if min(len(_words(draft)), len(_words(repair))) < _MIN_LANGUAGE_WORDS:
        # a script without spaces is one word; its language is certain
        if repair.isascii() or draft.isascii() == repair.isascii():
            return None
    after, confidence = _best(language_confidences(repair))
    before = language_confidences(draft)
    # short English texts often look Danish or the like
    if after == 'English':
        name, certain = _best(before)
        if name == after or min(certain, confidence) < _MIN_CONFIDENCE:
            return None
        return f'The draft is in {name}, the repair in {after}.'
    if confidence < _MIN_CONFIDENCE or before.get(after, 0.0) > _UNLIKELY:
        return None
    return f'The repair is in {after}, the draft is not.'


def _best(confidences: dict[str, float]) -> tuple[str, float]:
    name = max(confidences, key=confidences.__getitem__, default='')
    return name, confidences.get(name, 0.0)


def _added_object(draft: str, repair: str) -> str | None:
    finder = coco_words()
    before = set(finder.find(draft))
    words = tokens_of(draft)
    # "peoples" is a mistake that drafts have
    known = {singular(singular(word)) for word in words}
    present = {singular(word) for word in tokens_of(repair)}
    if known & _PERSON_PRONOUNS:
        before.add('person')
    added = {}
    for class_, name in finder.mentions(repair):
        if class_ in before or class_ in added:
            continue
        if not all(resembles(w, known, present) for w in name.split()):
            added[class_] = name
    if not added:
        return None
    names = ', '.join(
        name if name == class_ else f'{name} ({class_})'
        for class_, name in added.items()
    )
    return f'The repair names objects that the draft lacks: {names}.'


def _added_noun(draft: str, repair: str) -> str | None:
    objects = {
        word
        for _, name in coco_words().mentions(repair)
        for word in name.split()
    }
    added = [n for n in added_nouns(draft, repair) if n not in objects]
    if not added:
        return None
    return f'The repair has nouns that the draft lacks: {", ".join(added)}.'


def _added_number(draft: str, repair: str) -> str | None:
    numbers = list(numbers_of(draft, pairs=True))
    values = {number.value for number in numbers}
    words = [singular(word) for word in tokens_of(draft)]
    for number in numbers_of(repair):
        if number.value not in values:
            return f'The repair has the number {number.words}, the draft not.'
        counts = _counts_of(number.counted, words)
        if counts is not None and number.value not in counts:
            return (
                f'The repair counts {number.words} {number.counted}, the '
                'draft does not.'
            )
    return None


def _counts_of(noun: str, words: list[str]) -> set[str] | None:
    """Return the numbers that count a noun; None if the noun is absent.

    Args:
        noun: The noun, singular.
        words: All words and marks of the draft, singular.
    """
    counts: set[str] | None = None
    for i, word in enumerate(words):
        if word != noun:
            continue
        counts = counts if counts is not None else set()
        before = words[max(i - _CONTEXT, 0) : i]
        while any(stop in before for stop in _ENDS_OF_A_COUNT):
            del before[0]
        counts |= {n.value for n in numbers_of(' '.join(before), True)}
    return counts


def _words(text: str) -> list[str]:
    return [token for token in tokens_of(text) if token[0].isalnum()]


def _content(text: str) -> list[str]:
    """The words without those that a correct sentence may need more of."""
    return [word for word in _words(text) if word not in _FUNCTION_WORDS]


def _sequences(text: str) -> Iterator[tuple[str, ...]]:
    words = _words(text)
    for i in range(len(words) - _WORDS_OF_A_LEAK + 1):
        yield tuple(words[i : i + _WORDS_OF_A_LEAK])


def _unrepeated(text: str) -> str:
    """Remove repeated sentences, and words repeated in succession."""
    seen: set[str] = set()
    kept = []
    for sentence in _SENTENCE.findall(text):
        words = ' '.join(_words(sentence))
        if words and words not in seen:
            seen.add(words)
            kept.append(_shorten(words.split()))
    return '. '.join(' '.join(words) for words in kept)


def _shorten(words: list[str]) -> list[str]:
    """Remove the repetition of 1 to 12 words that follow each other."""
    kept: list[str] = []
    for word in words:
        kept.append(word)
        for length in range(1, min(12, len(kept) // 2) + 1):
            if kept[-length:] == kept[-2 * length : -length]:
                del kept[-length:]
                break
    return kept
