# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""YAML without keys that are there twice."""

import pytest
import yaml

from minigpt4.curation.yaml_reader import (
    DuplicateKeyError,
    read_yaml,
    yaml_reason,
)


def test_values_are_those_of_the_safe_loader():
    text = 'a: &x {b: 1, c: [2, null]}\nd: {<<: *x, b: 3}\n'
    assert read_yaml(text) == yaml.safe_load(text)
    assert read_yaml(text)['d'] == dict(b=3, c=[2, None])
    assert read_yaml('[a, 1]') == ['a', 1] and read_yaml('') is None
    # a number and a text are two keys
    assert read_yaml('{1: a, "1": b}') == {1: 'a', '1': 'b'}
    with pytest.raises(yaml.YAMLError):
        read_yaml('!!python/object/apply:os.getcwd []')


@pytest.mark.parametrize(
    'text',
    ['a: 1\nb: 2\na: 3', '- {}\n-\n  a: {a: 1,\n a: 2}', '\na: 1\na: 1'],
)
def test_a_key_that_is_there_twice_is_refused(text):
    with pytest.raises(DuplicateKeyError) as error:
        read_yaml(text)
    assert yaml_reason(error.value).startswith('line ')
    assert 'the key a is there twice' in yaml_reason(error.value)
