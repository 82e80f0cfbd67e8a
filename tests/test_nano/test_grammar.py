# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Texts about scenes, and the rules that call an answer broken."""

import random

import pytest

from minigpt4.nano import grammar
from minigpt4.nano.world import Scene, Thing, sample_scene

SCENE = Scene(
    'gray',
    (
        Thing('top left', 'small', 'red', 'circle'),
        Thing('bottom right', 'large', 'orange', 'star'),
    ),
)

OTHER = Scene('gray', (Thing('top left', 'small', 'red', 'star'),))


def test_texts_of_a_scene():
    assert grammar.description(SCENE) == (
        'The image shows two shapes on a gray background. In the top left '
        'there is a small red circle. In the bottom right there is a large '
        'orange star.'
    )
    assert grammar.poem(SCENE) == (
        'O red circle, so small and bright,\n'
        'O orange star, so large and bright,\n'
        'upon a field of gray light.'
    )
    assert grammar.count(SCENE) == 'There are two shapes.'
    assert grammar.color(SCENE.things[1]) == 'The star is orange.'
    assert (
        grammar.place(SCENE.things[0]) == 'The red circle is in the top left.'
    )


def test_query_words_name_every_corner_and_the_background():
    words = grammar.query_words(SCENE)
    assert words[:5] == ['small', 'red', 'circle', 'top', 'left']
    assert words[5:15] == [''] * 10
    assert words[20:] == ['gray', 'background']


def test_colour_is_asked_only_where_the_shape_is_single():
    twins = Scene(
        'white',
        (
            Thing('top left', 'small', 'red', 'circle'),
            Thing('top right', 'small', 'blue', 'circle'),
        ),
    )
    assert grammar.question('color', twins, random.Random(0)) is None
    with pytest.raises(ValueError, match="unknown task 'sing'"):
        grammar.question('sing', twins, random.Random(0))


def test_proper_texts_are_no_failures():
    rng = random.Random(0)
    for _ in range(200):
        scene = sample_scene(rng)
        for task, text in (
            ('describe', grammar.description(scene)),
            ('poem', grammar.poem(scene)),
        ):
            assert grammar.failure(task, text, True) is None
            assert grammar.is_relevant(text, scene)


@pytest.mark.parametrize(
    ('task', 'text', 'finished', 'kind'),
    [
        ('describe', grammar.description(SCENE), False, 'unfinished'),
        (
            'describe',
            grammar.description(SCENE) + ' In the top left there is a '
            'small red circle.',
            True,
            'repeated',
        ),
        (
            'describe',
            'The image shows two shapes on a gray',
            True,
            'fragmented',
        ),
        ('describe', '', True, 'fragmented'),
        ('describe', 'There are two shapes.', True, 'malformed'),
        ('describe', 'a red circle and an orange star.', True, 'malformed'),
        ('poem', grammar.description(SCENE), True, 'malformed'),
        (
            'poem',
            'O red circle, so small and bright,\n' * 2
            + 'upon a field of gray light.',
            True,
            'repeated',
        ),
    ],
)
def test_broken_texts_are_failures(task, text, finished, kind):
    assert grammar.failure(task, text, finished) == kind


def test_a_wrong_but_proper_description_is_no_failure():
    text = grammar.description(SCENE).replace('red', 'blue')
    assert grammar.failure('describe', text, True) is None
    assert grammar.is_relevant(text, SCENE)


@pytest.mark.parametrize('write', [grammar.description, grammar.poem])
def test_an_answer_about_another_scene_is_irrelevant(write):
    assert not grammar.is_relevant(write(OTHER), SCENE)


def test_a_shape_counts_with_its_colour_only():
    assert grammar.is_relevant('a red circle', SCENE)
    assert not grammar.is_relevant('a red star and an orange circle', SCENE)


def test_mentions_are_counted_with_size():
    assert grammar.mentioned(grammar.description(SCENE)) == [
        'small red circle',
        'large orange star',
    ]


def test_only_a_size_a_colour_and_a_shape_are_a_mention():
    assert (
        grammar.mentioned(
            'so small and bright, In the large top right there is a small '
            'green small large red circles and a small red dot.'
        )
        == []
    )
    assert grammar.mentioned('a large large yellow cross') == [
        'large yellow cross'
    ]


def test_all_shapes_of_a_description_are_mentioned():
    """Answers of the right form have the scores of reproduction.md."""
    rng = random.Random(0)
    for _ in range(200):
        scene = sample_scene(rng)
        assert grammar.mentioned(grammar.description(scene)) == [
            grammar.name(thing) for thing in scene.things
        ]
