# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Captions are decoded and checked."""

import json

import pytest

from minigpt4.datasets import SampleError
from minigpt4.datasets.captions import parse_caption


@pytest.mark.parametrize(
    'data, want',
    [
        (b'A dog.\r\n', 'A dog.'),
        (b'a\tdog\r\non\na beach', 'a dog on a beach'),
        ('\ufeffA dog.'.encode(), 'A dog.'),
        ('A dog.'.encode('utf-16'), 'A dog.'),
        ('A dög 日本 🐕.'.encode(), 'A dög 日本 🐕.'),
        # Windows-1252 that was read as Latin-1
        ('it\x92s'.encode(), 'it\x92s'),
        ('a\x0bb\x0cc\x85d\u2028e'.encode(), 'a b c d e'),
    ],
)
def test_text_file_is_decoded_by_its_byte_order_mark(data, want):
    assert parse_caption(dict(txt=data)) == want


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16'])
def test_json_file_is_decoded_by_its_byte_order_mark(encoding):
    data = json.dumps(dict(caption=' A dög. ')).encode(encoding)
    assert parse_caption(dict(json=data)) == 'A dög.'
    assert parse_caption(dict(json=b'{"caption": null}', txt=b'b')) == 'b'


@pytest.mark.parametrize(
    'data, reason',
    [
        (b'', 'cannot be read'),
        (b'{"capt', 'cannot be read'),
        (b'[' * 100_000, 'nested too deeply'),
        (b'{"caption":' * 100_000, 'nested too deeply'),
        (b'{"caption": ' + b'9' * 100_000 + b'}', 'cannot be read'),
        (b'[1]', 'is a list'),
        (b'"a"', 'is a string'),
        (b'{}', 'has no caption'),
        (b'{"caption": null}', 'has no caption'),
        (b'{"caption": NaN}', 'it is a number'),
        (b'{"caption": 5}', 'it is a number'),
        (b'{"caption": ["a"]}', 'it is a list'),
        (b'{"caption": ""}', 'is empty'),
        (b'{"caption": " \\n "}', 'is empty'),
        # no width: zero-width space and joiner
        (b'{"caption": " \\u200b\\u200d "}', 'is empty'),
        # transformers #8886, tiktoken #82: cut inside an emoji
        (b'{"caption": "a \\ud83d"}', r'half a character .*U\+D83D'),
        (b'{"caption": "\\u0000a"}', r'control character .U\+0000'),
        (b'{"caption": "\\u001b[31ma"}', r'control character .U\+001B'),
        (b'\xff', 'cannot be read'),
        (json.dumps(dict(caption='w ' * 60_000)).encode(), '120,000 char'),
    ],
)
def test_json_without_a_valid_caption_is_refused(data, reason):
    with pytest.raises(SampleError, match=reason) as error:
        parse_caption(dict(json=data))
    assert error.value.reason == 'caption cannot be used'
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    'data, reason',
    [
        (b'\xe9t\xe9', 'not UTF-8 text .byte 0'),
        (b'\xff\xfea', 'not UTF-16 text'),
        (b' \r\n', 'is empty'),
        (b'a\0b', 'control character'),
    ],
)
def test_text_without_a_valid_caption_is_refused(data, reason):
    with pytest.raises(SampleError, match=reason):
        parse_caption(dict(txt=data))
