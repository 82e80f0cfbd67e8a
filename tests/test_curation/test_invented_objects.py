# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Objects of a text that the image is not known to have."""

from minigpt4.curation.invented_objects import invented_objects, object_flags

TEXT = 'A man rides a horse; two dogs and a puppy follow.'


def test_objects_and_captions_are_known():
    assert invented_objects(TEXT, dict(objects=['horse'])) == ['person', 'dog']
    assert invented_objects(TEXT, dict(captions=['A man and a dog'])) == [
        'horse'
    ]
    details = dict(objects=['horse', 'dog'], captions=['A woman rides.'])
    assert invented_objects(TEXT, details) == []


def test_nothing_is_found_without_objects_and_captions():
    for details in ({}, dict(objects=[]), dict(objects=3), dict(captions={})):
        assert invented_objects(TEXT, details) == []


def test_the_flag_names_the_object():
    (flag,) = object_flags('A cat.', dict(objects=['dog'], captions=['x']))
    assert flag['reason'] == 'object'
    assert flag['text'] == (
        'The text names "cat", which the objects and captions of the image '
        'do not have.'
    )
