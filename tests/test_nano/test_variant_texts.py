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
        'In this image we can see a circle which is red in color and small '
        'in size. It is in the top left of the image. We can see a star '
        'which is orange in color and large in size. It is in the bottom '
        'right of the image. In the background we can see that the color is '
        'gray.'
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
