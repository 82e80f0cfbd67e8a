# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Ids that a file does not have are named with the form of its ids."""

from minigpt4.evaluation.unknown_ids import name_unknown


def test_three_ids_and_a_known_one_are_named():
    text = name_unknown(['a', 'a', 'b', 'c\n', 'd'], ['139', '2'])
    assert text == r' (such as "a", "b", "c\n"; it has ids such as "139")'
    text = name_unknown(['a'], [], 'truth.json')
    assert text == ' (such as "a")'
    text = name_unknown(['a'], iter(['1']), 'truth.json')
    assert text == ' (such as "a"; truth.json has ids such as "1")'


def test_nothing_is_added_if_all_are_known():
    assert name_unknown([], ['139']) == ''
