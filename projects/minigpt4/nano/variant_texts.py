# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Texts of the nano world for the variants of stage 2.

They stand for the data of the paper's variants: short answers for VQAv2,
OK-VQA and A-OKVQA (appendix A.2), and long, monotonous descriptions for
Localized Narratives (section 4.3).
"""

import random

from . import grammar
from .world import Scene

QUESTION_TASKS = ('count', 'color', 'place')


def questions(scene: Scene, rng: random.Random) -> list[tuple[str, str, str]]:
    """One question of each of :data:`QUESTION_TASKS` about a scene.

    Returns:
        Task, question and answer; without the tasks that the scene does not
        allow, see :func:`~.grammar.question`.
    """
    found = []
    for task in QUESTION_TASKS:
        pair = grammar.question(task, scene, rng)
        if pair is not None:
            found.append((task, *pair))
    return found


def narrative(scene: Scene) -> str:
    """Write a long, monotonous description.

    Each shape has three sentences in the same order. They are sentences that
    the language model knows: it is frozen, and a projection cannot teach it
    another style.
    """
    opening, *shapes = grammar.description(scene).split('. ')
    sentences = [opening]
    for thing, sentence in zip(scene.things, shapes, strict=True):
        sentences += [sentence, grammar.place(thing), grammar.color(thing)]
    return ' '.join(text.rstrip('.') + '.' for text in sentences)
