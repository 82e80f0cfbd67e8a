# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Classes that texts name: plurals, names of several words, exceptions."""

import pytest

from minigpt4.evaluation.object_words import (
    ObjectWords,
    coco_words,
    singular,
)


@pytest.mark.parametrize(
    ('plural', 'expected'),
    [
        *(('dogs', 'dog'), ('buses', 'bus'), ('bus', 'bus')),
        *(('benches', 'bench'), ('toothbrushes', 'toothbrush')),
        *(('puppies', 'puppy'), ('ties', 'tie'), ('knives', 'knife')),
        *(('glasses', 'glass'), ('glass', 'glass'), ('boxes', 'box')),
        *(('people', 'person'), ('women', 'woman'), ('skis', 'ski')),
        *(('horses', 'horse'), ('oranges', 'orange'), ('vases', 'vase')),
        *(('scissors', 'scissors'), ('tennis', 'tennis'), ('gas', 'gas')),
        *(('geese', 'goose'), ('mice', 'mouse'), ('suitcases', 'suitcase')),
        *(('is', 'is'), ('this', 'this'), ('firemen', 'fireman')),
        *(('couches', 'couch'), ('sandwiches', 'sandwich')),
        *(('grandchildren', 'grandchild'), ('axes', 'axe')),
    ],
)
def test_nouns_become_singular(plural, expected):
    assert singular(plural) == expected


@pytest.mark.parametrize(
    ('text', 'classes'),
    [
        ('Two hot dogs on a plate.', ['hot dog']),
        ('A dog, and a HOT summer', ['dog']),
        ('The traffic lights are red', ['traffic light']),
        ('a man holding wine glasses', ['person', 'wine glass']),
        ('The toilet seat is up.', ['toilet']),
        ('a seat near the toilet', ['chair', 'toilet']),
        ('people on motorcycles', ['person', 'motorcycle']),
        ('A baby elephant and a baby', ['elephant', 'person']),
        ('the mother bear', ['bear']),
        ('teddy bears', ['teddy bear']),
        ('a passenger train on train tracks', ['train']),
        ('a pickup truck', ['truck']),
        ('a laptop computer', ['laptop']),
        ("the driver's seat", ['chair']),
        ('the men’s room', []),
        ('two-man kites', ['person', 'kite']),
        ('nothing here', []),
        ('', []),
    ],
)
def test_mentions_of_a_text(text, classes):
    assert coco_words().find(text) == classes


def test_every_class_is_found_by_its_name():
    words = coco_words()
    assert len(words.classes) == 80
    for name in words.classes:
        assert words.find(f'a {name} here') == [name]


def test_plurals_can_be_ignored():
    words = coco_words(singularize=False)
    assert words.find('dogs and a cat') == ['cat']


def test_the_longest_name_counts():
    words = ObjectWords({'a': ['x y z'], 'b': ['x y'], 'c': ['z']})
    assert words.find('x y z x y x z') == ['a', 'b', 'c']


def test_a_word_names_one_class():
    words = coco_words()
    for name in words.classes:
        assert [found for found, _ in words.mentions(name)] == [name]


def test_the_colour_orange_counts_as_the_fruit():
    assert coco_words().find('He wears an orange shirt.') == ['orange']
