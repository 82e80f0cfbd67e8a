# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Pairs of descriptions of nano scenes: a right one and a worse one."""

import json
import random
from pathlib import Path

from . import grammar
from .world import BACKGROUNDS, COLORS, SHAPES, SIZES, Scene

# words that exclude each other in a description
_KINDS = (
    tuple(COLORS),
    tuple(SHAPES),
    tuple(SIZES),
    tuple(BACKGROUNDS),
    ('left', 'right'),
    ('top', 'bottom'),
)
_REPEATED = 0.2  # share of the rejected descriptions with a repeated sentence


def wrong_word(text: str, rng: random.Random) -> str:
    """Replace one word of a description by another of its kind.

    Args:
        text: The description.
        rng: Source of randomness.
    """
    words = text.split(' ')
    kinds = {
        number: kind
        for number, word in enumerate(words)
        for kind in _KINDS
        if word.rstrip('.') in kind
    }
    number = rng.choice(list(kinds))
    word = words[number].rstrip('.')
    other = rng.choice([w for w in kinds[number] if w != word])
    words[number] = words[number].replace(word, other)
    return ' '.join(words)


def repeated_sentence(text: str, rng: random.Random) -> str:
    """Repeat one sentence of a description at its end.

    Args:
        text: The description.
        rng: Source of randomness.
    """
    sentences = text.removesuffix('.').split('. ')
    return '. '.join([*sentences, rng.choice(sentences)]) + '.'


def rejected_description(scene: Scene, rng: random.Random) -> str:
    """Write a worse description: a wrong word, or a repeated sentence."""
    change = repeated_sentence if rng.random() < _REPEATED else wrong_word
    return change(grammar.description(scene), rng)


def write_pairs(
    path: Path, scenes: dict[str, Scene], rng: random.Random
) -> None:
    """Write a pair for each scene, as ``minigpt4 curate export`` does.

    Args:
        path: The file, JSON lines.
        scenes: The scenes by the name of their image, relative to the folder
            of the file.
        rng: Source of randomness.
    """
    lines = []
    for image, scene in scenes.items():
        question = rng.choice(grammar.DESCRIBE)
        parts = [dict(type='image'), dict(type='text', text=question)]
        record = dict(
            images=[image],
            prompt=[dict(role='user', content=parts)],
            chosen=_answer(grammar.description(scene)),
            rejected=_answer(rejected_description(scene, rng)),
        )
        lines.append(json.dumps(record) + '\n')
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(lines), encoding='utf-8')


def _answer(text: str) -> list[dict]:
    return [dict(role='assistant', content=[dict(type='text', text=text)])]
