# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Texts of the nano world for the variants of stage 2."""

import random

from minigpt4.nano import grammar
from minigpt4.nano.variant_texts import narrative, questions
from minigpt4.nano.world import Scene, Thing

SCENE = Scene(
    'gray',
    (
        Thing('top left', 'small', 'red', 'circle'),
        Thing('bottom right', 'large', 'orange', 'star'),
    ),
)


def test_narrative():
    assert narrative(SCENE) == (
        'The image shows two shapes on a gray background. In the top left '
        'there is a small red circle. The red circle is in the top left. The '
        'circle is red. In the bottom right there is a large orange star. '
        'The orange star is in the bottom right. The star is orange.'
    )


def test_questions():
    found = questions(SCENE, random.Random(0))
    assert [task for task, _, _ in found] == ['count', 'color', 'place']
    answers = [answer for _, _, answer in found]
    assert answers[0] == 'There are two shapes.'
    assert answers[1] in [grammar.color(t) for t in SCENE.things]
    assert answers[2] in [grammar.place(t) for t in SCENE.things]
    circle = Thing('top left', 'small', 'red', 'circle')
    other = Thing('top right', 'small', 'blue', 'circle')
    same = questions(Scene('gray', (circle, other)), random.Random(0))
    assert [task for task, _, _ in same] == ['count', 'place']
