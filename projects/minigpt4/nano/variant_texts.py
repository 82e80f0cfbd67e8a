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
    """Write a description like those of Localized Narratives.

    Full sentences, most of which begin in the same way.
    """
    sentences = []
    for number, thing in enumerate(scene.things):
        opening = 'In this image we can see' if not number else 'We can see'
        sentences.append(
            f'{opening} a {thing.shape} which is {thing.color} in color and '
            f'{thing.size} in size. It is in the {thing.corner} of the image.'
        )
    sentences.append(
        f'In the background we can see that the color is {scene.background}.'
    )
    return ' '.join(sentences)
