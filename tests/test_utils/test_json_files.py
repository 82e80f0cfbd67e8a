# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""JSON is read strictly: no value is taken silently."""

import gzip

import pytest

from minigpt4.utils.json_files import (
    InvalidJsonError,
    parse_strict_json,
    read_json,
    read_json_lines,
)


@pytest.mark.parametrize(
    ('text', 'reason'),
    [
        ('{"a": 1, "b": {"c": 1, "c": 2}}', 'has the key "c" twice'),
        ('[NaN]', 'NaN is no number of JSON'),
        ('[-Infinity]', '-Infinity is no number of JSON'),
        ('[1e999]', 'the number 1e999 is larger'),
        ('1' * 5000, 'a number of 5,000 digits'),
        ('[' * 100_000, 'nested too deeply'),
        ('{"a":' * 100_000, 'nested too deeply'),
        ('{"a": 1,}', 'line 1, column 9: '),
        ('{"a": "b', 'line 1, column 7: .*; the file may be cut'),
        ('{"a": 1', '; the file may be cut'),
        ('', 'line 1, column 1'),
    ],
)
def test_what_is_refused(text, reason):
    with pytest.raises(InvalidJsonError, match=reason):
        parse_strict_json(text)


def test_values_are_those_of_the_file():
    text = '{"a": [1, -2.5, 1e3, "b", null, true], "a ": {}, "n": 12345678901}'
    assert parse_strict_json(text) == {
        'a': [1, -2.5, 1000.0, 'b', None, True],
        'a ': {},
        'n': 12345678901,
    }


@pytest.mark.parametrize('data', [b'\xef\xbb\xbf{"a": 1}', b'\r\n{"a":\r\n1}'])
def test_a_byte_order_mark_and_other_line_ends(tmp_path, data):
    path = tmp_path / 'a.json'
    path.write_bytes(data)
    assert read_json(path, 'numbers') == {'a': 1}


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        (b'', r'a\.json is not JSON \(it is empty\); expected numbers\.$'),
        (b'{"a": 1', r'is not JSON \(line 1, .*cut\); expected numbers\.$'),
        (
            b'{"a": 1, "a": 2}',
            r'a\.json has the key "a" twice; expected it on',
        ),
        (
            gzip.compress(b'{}', mtime=0),
            r'not JSON \(it is a gzip archive; unpack',
        ),
        (b'\xff\xfe{\0', r'not JSON \(it is UTF-16'),
        (b'<html>', r'not JSON \(it is an HTML'),
        (b'{"\xe9": 1}', 'is not UTF-8 text .byte 2'),
    ],
)
def test_another_file_is_refused(tmp_path, data, message):
    path = tmp_path / 'a.json'
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_json(path, 'numbers')


def test_lines_have_their_numbers(tmp_path):
    path = tmp_path / 'a.jsonl'
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n[2]\n"\xc3\xa9"')
    assert list(read_json_lines(path)) == [(1, {'a': 1}), (3, [2]), (4, 'é')]
    path.write_bytes(b' \n')
    assert list(read_json_lines(path)) == []


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        (b'{}\n{"a": 1', 'a.jsonl: line 2 is not JSON .column 8'),
        (b'{}\n{"a": 1, "a": 1}', 'line 2 has the key "a" twice'),
        (b'{}\n\n["\xe9"]', 'byte 2 of line 3 is not UTF-8'),
        (
            gzip.compress(b'{}', mtime=0),
            'it is a gzip archive; unpack it with gunzip',
        ),
        ('{}\n{}'.encode('utf-16'), 'it is UTF-16'),
        (bytes(20), 'begins with zeros'),
    ],
)
def test_a_wrong_line_is_named(tmp_path, data, message):
    path = tmp_path / 'a.jsonl'
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        list(read_json_lines(path))
