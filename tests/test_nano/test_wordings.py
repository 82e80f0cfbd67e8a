# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Other wordings of questions, and questions typed in other ways."""

import random

import pytest

from minigpt4.nano import grammar, wordings
from minigpt4.nano.world import sample_scene


@pytest.mark.parametrize('task', grammar.TASKS)
def test_a_reworded_question_names_the_same_shape(task):
    rng = random.Random(0)
    for _ in range(100):
        pair = grammar.question(task, sample_scene(rng), rng)
        if pair is None:
            continue
        asked = wordings.reword(task, pair[0], rng)
        assert '{' not in asked and asked[-1] in '.?'
        named = grammar.words_of_shapes(asked)
        assert named == grammar.words_of_shapes(pair[0])
        assert len(named) == {'color': 1, 'place': 2}.get(task, 0)


def test_a_retyped_question_has_the_same_words():
    rng = random.Random(0)
    asked = 'How many shapes are there?'
    typed = {wordings.retype(asked, rng) for _ in range(300)}
    words = [word.lower() for word in asked[:-1].split()]
    for text in typed:
        assert [w.lower() for w in text.rstrip(' .?!').split()] == words
    assert asked in typed and asked[:-1] in typed and asked.lower() in typed
    assert any('\n' in text for text in typed)
    assert wordings.retype('Hello!', random.Random(0))  # it has no space


def test_small_talk_has_one_answer_for_each_remark():
    rng = random.Random(0)
    pairs = {wordings.small_talk(rng) for _ in range(500)}
    assert ('Hello!', 'Hello! Show me an image.') in pairs
    assert len({asked for asked, _ in pairs}) == len(pairs) > 15
