# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Rules on a text alone: what they object to, and what they accept."""

import pytest

from minigpt4.evaluation import text_rules

GOOD = (
    'The image shows a man on a wooden bench in a park. He wears a blue '
    'coat and reads a newspaper. Behind him there are tall trees, and a dog '
    'sleeps in the grass. The sky is cloudy.'
)


def test_a_good_text_passes():
    assert text_rules.damaged_characters(GOOD) is None
    assert text_rules.length(GOOD, 20, 400) is None
    assert text_rules.contains(GOOD, ["I'm sorry"], 'apology') is None
    assert text_rules.meaningless_characters(GOOD, 0.05) is None
    assert text_rules.repetition(GOOD, 0.25, 4) is None
    assert text_rules.fragments(GOOD, 3, 0.3) is None
    assert text_rules.unfinished(GOOD) is None


def test_a_good_text_passes_the_rules_of_other_packages():
    pytest.importorskip('lingua')
    pytest.importorskip('ftfy')
    assert text_rules.other_language(GOOD, 0.2) is None
    assert text_rules.fix_encoding(GOOD) == GOOD


def test_length():
    assert text_rules.length('A red cat', 4, 9) == (
        'the text has 3 words, fewer than 4.'
    )
    assert text_rules.length('A red cat', 1, 2) == (
        'the text has 3 words, more than 2.'
    )
    # hyphens and apostrophes do not divide words
    assert text_rules.words("A dog's well-known ear") == [
        'a',
        "dog's",
        'well-known',
        'ear',
    ]


@pytest.mark.parametrize(
    'text',
    [
        "I'm sorry I made a mistake in the description.",
        'i’m SORRY I made a mistake',
    ],
)
def test_apologies_in_any_case(text):
    reason = text_rules.contains(
        text, ["I'm sorry I made a mistake"], 'apology'
    )
    assert reason == 'the text has the apology "I\'m sorry I made a mistake".'


def test_encoding():
    pytest.importorskip('ftfy')
    assert text_rules.fix_encoding('The manâ€™s cafÃ©') == 'The man’s café'
    # quotes and ligatures that were written are kept
    assert text_rules.fix_encoding('“A” ﬁne &amp; x²') == '“A” ﬁne &amp; x²'
    assert text_rules.damaged_characters('a caf\ufffd') == (
        'the text has the damaged character U+FFFD at position 6.'
    )


def test_meaningless_characters():
    assert 'are no letters' in text_rules.meaningless_characters(
        'A dog ☃☃☃☃☃ ⁂⁂⁂', 0.05
    )
    assert text_rules.meaningless_characters('Ein Mädchen, 5 €.', 0) is None


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('A very very very very big dog.', '"very" comes 4 times'),
        ('A dog runs on grass. ' * 3, 'of the sequences of four words'),
    ],
)
def test_repetition(text, expected):
    assert expected in text_rules.repetition(text, 0.25, 4)
    assert text_rules.repetition('A dog runs', 0.25, 4) is None


def test_fragments():
    assert text_rules.fragments('A dog. Grass. Sun. It is big.', 3, 0.3) == (
        '3 of 4 sentences have fewer than 3 words, e.g. "A dog.".'
    )
    # a wrapped line ends no sentence, an empty line does
    assert text_rules.sentences('A dog\nruns.\n\nGrass') == [
        'A dog\nruns.',
        'Grass',
    ]


@pytest.mark.parametrize('text', ['A dog.', 'He says "no!"', 'Why? (Yes.)'])
def test_finished(text):
    assert text_rules.unfinished(text) is None


@pytest.mark.parametrize('text', ['A dog, and a', 'A dog:', ''])
def test_unfinished(text):
    assert 'in the middle of a sentence' in text_rules.unfinished(text)


def test_other_languages():
    pytest.importorskip('lingua')
    german = 'Das Bild zeigt einen Mann auf einer Bank in einem grünen Park.'
    assert 'is German rather than English' in text_rules.other_language(
        german, 0.2
    )
    assert 'is German' in text_rules.other_language(f'{GOOD} {german}', 0.2)
    assert text_rules.other_language('12 34 !', 0.2) is None
