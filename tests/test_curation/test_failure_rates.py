# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Faults are counted by rule, a text may have several."""

from minigpt4.curation.failure_rates import measure_failures
from minigpt4.curation.rules import RulesSettings

GOOD = 'A large red ball is on the green grass near two old white houses.'
SETTINGS = RulesSettings(skip=('language', 'encoding'), min_words=5)


def test_faults_are_counted_by_rule():
    texts = [
        GOOD,
        GOOD[:-1],
        'Ball ball ball ball ball',
        f"I'm sorry. {GOOD}",
        'Yes.',
    ]
    found = measure_failures(texts, SETTINGS)
    assert (found.texts, found.any_rule) == (5, 4)
    assert found.by_rule['unfinished'] == 2
    assert found.by_rule['repetition'] == 1
    assert found.by_rule['apology'] == 1
    assert found.by_rule['length'] == 1
    assert 'language' not in found.by_rule
    assert 'near_duplicate_text' not in found.by_rule


def test_no_text():
    found = measure_failures([], SETTINGS)
    assert (found.texts, found.any_rule) == (0, 0)
