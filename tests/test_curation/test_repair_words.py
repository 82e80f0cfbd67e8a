# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Numbers and nouns of descriptions."""

import pytest

from minigpt4.curation.repair_words import (
    added_nouns,
    nouns_of,
    numbers_of,
    resembles,
)


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('Two small black birds sit.', [('2', 'two', 'bird')]),
        ('There are 12 boats.', [('12', '12', 'boat')]),
        ('1,500 people', [('1500', '1,500', 'person')]),
        ('twenty-five cars', [('25', 'twenty five', 'car')]),
        ('two hundred and six men', [('206', 'two hundred and six', 'man')]),
        ('a dozen eggs', [('12', 'dozen', 'egg')]),
        ('one of the dogs', []),
        ('someone, often', []),
        ('twelve', [('12', 'twelve', '')]),
        ('a pair of dogs', []),
    ],
)
def test_numbers(text, expected):
    assert [tuple(number) for number in numbers_of(text)] == expected


def test_times_differ_and_pairs_count_on_request():
    ten, eleven = (next(numbers_of(t)).value for t in ('10:30', '11:30'))
    assert ten != eleven
    (pair,) = numbers_of('a pair of dogs', pairs=True)
    assert pair.value == '2'


@pytest.mark.parametrize(
    ('text', 'nouns'),
    [
        ('A young man holding a red umbrella.', ['man', 'umbrella']),
        (
            'The dogs run on the wet grass near trees.',
            ['dog', 'grass', 'tree'],
        ),
        ('There are three large boats.', ['boat']),
        ('It is sunny.', []),
    ],
)
def test_nouns(text, nouns):
    assert nouns_of(text) == nouns


@pytest.mark.parametrize(
    ('draft', 'repair', 'added'),
    [
        ('A dog runs', 'A dog runs with a stick.', ['stick']),
        ('A bycicle and flwers', 'A bicycle and a few flowers.', []),
        ('He holds an umbrel', 'He holds an umbrella.', []),
        ('The skier skis', 'The ski of the skier.', []),
        ('a hill side', 'a hillside', []),
        ('A dog', 'A photo of a scene with a dog in the background.', []),
    ],
)
def test_added_nouns(draft, repair, added):
    assert added_nouns(draft, repair) == added


def test_a_word_is_misspelt_only_if_the_repair_replaced_it():
    assert resembles('tower', {'towel'}, {'tower'})
    assert not resembles('tower', {'towel'}, {'tower', 'towel'})
