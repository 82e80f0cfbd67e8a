# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""How far do the open choices of CHAIR move its scores?

The same captions are scored with one choice changed at a time.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from .chair import score_captions
from .object_words import ObjectWords, coco_words, word_spans

_SENTENCES, _WORDS = (1, 3, 5), (20, 50, 100)
_SENTENCE_END = re.compile(r'[.!?]["\')\]]*(?=\s)')
_SCORES = (
    ('CHAIR_i', 'chair_i'),
    ('CHAIR_s', 'chair_s'),
    ('recall', 'recall'),
)

Truth = Mapping[str, Collection[str]]


class Variant(NamedTuple):
    """One way of scoring.

    Attributes:
        name: What differs from the scores of ``minigpt4 eval chair``.
        words: Finds the classes that captions name; None for the default.
        cut: What is scored of a caption; None for all of it.
        truth: The classes in each image; None for the given ones.
    """

    name: str
    words: ObjectWords | None = None
    cut: Callable[[str], str] | None = None
    truth: Truth | None = None


def first_sentences(text: str, number: int) -> str:
    """The first sentences of a text.

    A sentence ends with a period, an exclamation mark or a question mark
    before white space, or at the end of the text.
    """
    for count, end in enumerate(_SENTENCE_END.finditer(text), 1):
        if count == number:
            return text[: end.end()]
    return text


def first_words(text: str, number: int) -> str:
    """The first words of a text in lower case, as their number is counted."""
    text = text.lower()
    for count, (_, end) in enumerate(word_spans(text), 1):
        if count == number:
            return text[:end]
    return text


def variants(truths: Mapping[str, Truth]) -> Iterator[Variant]:
    """Yield the ways of scoring, the default first.

    Args:
        truths: Other classes of the images, by a name of each.
    """
    yield Variant('as above')
    yield Variant('plurals not made singular', coco_words(singularize=False))
    yield Variant(
        '"hot dog" is a dog: no joined names', coco_words(join=False)
    )
    yield Variant(
        '"toilet seat" is a seat: no negative list',
        coco_words(negatives=False),
    )
    for number in _SENTENCES:
        yield Variant(
            f'first {number} sentences' if number > 1 else 'first sentence',
            cut=partial(first_sentences, number=number),
        )
    for number in _WORDS:
        yield Variant(
            f'first {number} words',
            cut=partial(first_words, number=number),
        )
    for name, truth in truths.items():
        yield Variant(f'truth: {name}', truth=truth)


def score_variants(
    rows: Sequence[Mapping[str, Any]],
    truth: Truth,
    truths: Mapping[str, Truth],
) -> list[dict[str, Any]]:
    """Score captions in each way.

    Args:
        rows: As for :func:`~.chair.score_captions`.
        truth: The classes in each image, by the text of its id.
        truths: Other classes of the images, by a name of each.

    Returns:
        For each way ``name``, ``captions`` (scored ones), ``mentions``,
        ``invented``, and the values ``chair_i``, ``chair_s`` and ``recall``.

    Raises:
        ValueError: No caption is of an image of a truth.
    """
    found = []
    for variant in variants(truths):
        cut = variant.cut
        scored = rows
        if cut is not None:
            scored = [{**row, 'caption': cut(row['caption'])} for row in rows]
        summary = score_captions(
            scored,
            truth if variant.truth is None else variant.truth,
            resamples=1,
            words=variant.words,
        )
        values = {k: summary['scores'][k]['value'] for _, k in _SCORES}
        counts = {k: summary[k] for k in ('captions', 'mentions', 'invented')}
        found.append(dict(name=variant.name, **counts, **values))
    return found


def variant_table(scored: Sequence[Mapping[str, Any]]) -> list[str]:
    """The lines of a table: each score, and its change to the first way."""
    width = max(len(row['name']) for row in scored)
    head = ''.join(f'{label:>19}' for label, _ in _SCORES)
    lines = [f'{"variant":{width}}  captions{head}']
    for row in scored:
        cells = ''
        for _, name in _SCORES:
            value, default = row[name], scored[0][name]
            if value is None:
                cells += f'{"not defined":>19}'
                continue
            change = ''
            if row is not scored[0] and default is not None:
                change = f'({100 * (value - default):+.2f})'
            cells += f'{100 * value:>9.2f}{change:>10}'
        lines.append(f'{row["name"]:{width}}  {row["captions"]:>8,}{cells}')
    return [line.rstrip() for line in lines]
