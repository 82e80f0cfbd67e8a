# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Compare short answers to questions by the official rules of VQAv2.

Source: the evaluation of VQAv2 (GT-Vision-Lab/VQA, ``vqaEval.py``), whose
normalisation MMPretrain's ``VQAAcc`` has too; tests compare both. MMPretrain's
accuracy is not used: it divides the matching answers by 3 once, where the
official one is a mean over the annotators.
"""

import functools
import re
from collections.abc import Sequence

# without one of the apostrophes, these words get it back
_CONTRACTIONS = (
    "'ow's'at 'twas I'd've I'm I've ain't aren't can't could've couldn't "
    "couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd "
    "he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've "
    "mightn't mightn't've must've mustn't needn't not've o'clock oughtn't "
    "shan't she'd've should've shouldn't shouldn't've somebody'd've "
    "somebody'll somebody's someone'd someone'd've someone'll someone's "
    "something'd something'd've something'll that's there'd there'd've "
    "there're there's they'd they'd've they'll they're they've wasn't we'd've "
    "we've weren't what'll what're what's what've when's where'd where's "
    "where've who'd who'd've who'll who's who've why'll why're why's won't "
    "would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've "
    "you'll you're you've"
).split()
_DIGITS = {
    word: str(number)
    for number, word in enumerate(
        'zero one two three four five six seven eight nine ten'.split()
    )
} | {'none': '0'}
_ARTICLES = frozenset(('a', 'an', 'the'))
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r'\d,\d')
_PERIOD = re.compile(r'\.(?!\d)')
_MAX_PERIODS = 32  # the official code removes no more
# where answers are normalised: everywhere, or only where annotators differ
NORMALISE = ('always', 'official')
MATCHES = 3  # annotators who make an answer fully right


def _contracted() -> dict[str, str]:
    """Words with a missing apostrophe, and the words themselves."""
    words = {
        word[:i] + word[i + 1 :]: word
        for word in _CONTRACTIONS
        for i, letter in enumerate(word)
        if letter == "'"
    }
    # the official table removes this apostrophe
    return words | {"somebody'd": 'somebodyd'}


_CONTRACTED = _contracted()


@functools.lru_cache(maxsize=100_000)
def normalise_answer(text: str) -> str:
    """Normalise a short answer.

    Lower case; no punctuation, except periods and commas in numbers; number
    words to ten are digits; no articles; contractions have their apostrophe.
    """
    text = _on_one_line(text)
    comma = _COMMA_IN_NUMBER.search(text)
    normal = text
    for sign in _PUNCTUATION:
        at_space = f'{sign} ' in text or f' {sign}' in text
        normal = normal.replace(sign, '' if at_space or comma else ' ')
    normal = _PERIOD.sub('', normal, count=_MAX_PERIODS)
    words = (_DIGITS.get(word, word) for word in normal.lower().split())
    return ' '.join(
        _CONTRACTED.get(word, word) for word in words if word not in _ARTICLES
    )


def matches(
    answer: str, truth: str, rule: str = 'exact', normalise: bool = True
) -> bool:
    """Whether an answer is the true one.

    Args:
        answer: The answer of a model.
        truth: The true answer.
        rule: ``'exact'``: both are equal when normalised (the official rule
            of VQAv2); ``'contains'``: the words of the true answer occur in
            succession in the answer, which suits models that answer in
            sentences.
        normalise: Whether both are normalised; else only line breaks, tabs
            and spaces at the ends do not count.

    Raises:
        ValueError: There is no such rule.
    """
    change = normalise_answer if normalise else _on_one_line
    found, expected = change(answer), change(truth)
    if rule == 'exact':
        return found == expected
    if rule == 'contains':
        return bool(expected) and f' {expected} ' in f' {found} '
    raise ValueError(f"match is {rule!r}; expected 'exact' or 'contains'.")


def _on_one_line(text: str) -> str:
    return re.sub(r'[\n\t]', ' ', text).strip()


def vqa_accuracy(
    answer: str,
    truths: Sequence[str],
    rule: str = 'exact',
    normalise: str = 'always',
) -> float:
    """Accuracy of VQAv2 and OK-VQA, from 0 to 1.

    An answer is right if three annotators gave it: for each annotator the
    others count, ``min(1, matches / 3)``; the accuracy is the mean.

    Args:
        answer: The answer of a model.
        truths: The answers of the annotators, ten of them in the data sets.
        rule: As for :func:`matches`.
        normalise: ``'always'``, or ``'official'``: answers are normalised
            only where the annotators gave different ones, as the official
            script does.

    Raises:
        ValueError: There is no such rule.
    """
    if normalise not in NORMALISE:
        raise ValueError(
            f'normalise is {normalise!r}; expected one of '
            f'{", ".join(NORMALISE)}.'
        )
    changed = normalise == 'always' or len(set(map(_on_one_line, truths))) > 1
    right = [matches(answer, truth, rule, changed) for truth in truths]
    total = sum(right)
    return sum(min(1.0, (total - own) / MATCHES) for own in right) / len(right)


def direct_answer_accuracy(
    answer: str, truths: Sequence[str], rule: str = 'exact'
) -> float:
    """Accuracy of A-OKVQA's direct answers: ``min(1, matches / 3)``.

    Source: ``eval_predictions.py`` (allenai/aokvqa@42e8c44). It compares the
    texts as they are; ``rule`` compares normalised answers.

    Args:
        answer: The answer of a model.
        truths: The ten direct answers.
        rule: As for :func:`matches`, or ``'literal'`` for the official
            comparison.
    """
    if rule == 'literal':
        return min(1.0, sum(answer == truth for truth in truths) / 3)
    return min(1.0, sum(matches(answer, t, rule) for t in truths) / 3)
