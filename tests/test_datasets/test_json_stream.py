# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Values of JSON and JSON lines, read one by one."""

import gzip
import json

import pytest

from minigpt4.datasets import json_stream
from minigpt4.datasets.json_stream import DamagedFile, stream_json
from minigpt4.datasets.json_values import DuplicateKey, InvalidJson


@pytest.fixture(params=[7, 1 << 20], ids=['small chunks', 'large chunks'])
def read(request, tmp_path, monkeypatch):
    """Function that writes a file and reads its entries."""
    monkeypatch.setattr(json_stream, '_CHUNK_CHARACTERS', request.param)

    def read(content, name='a.json'):
        path = tmp_path / name
        data = content if isinstance(content, bytes) else content.encode()
        path.write_bytes(data)
        return list(stream_json(path))

    return read


RECORDS = [
    dict(caption='é "x" \\ ]},', n=[1, {'a': [2.5, None]}]),
    dict(caption=''),
    dict(caption='c', n=12345678901234567890),
]


@pytest.mark.parametrize('indent', [None, 2])
def test_a_list_gives_its_elements(read, indent):
    for ascii_only in (True, False):
        text = json.dumps(RECORDS, indent=indent, ensure_ascii=ascii_only)
        entries = read(f'\ufeff {text} \r\n')
        assert [e.value for e in entries] == RECORDS
        assert [e.number for e in entries] == [1, 2, 3]
        assert {(e.key, e.is_line) for e in entries} == {(None, False)}


def test_an_object_gives_elements_and_values(read):
    content = dict(info=dict(a=1), a=RECORDS, n=5, empty=[], b=[1, 2])
    found = [(e.key, e.value, e.in_list) for e in read(json.dumps(content))]
    assert found == [
        ('info', dict(a=1), False),
        *(('a', record, True) for record in RECORDS),
        ('n', 5, False),
        ('b', 1, True),
        ('b', 2, True),
    ]


@pytest.mark.parametrize('end', ['\n', '\r\n', '\n\n'])
def test_lines(read, end):
    text = end.join(map(json.dumps, RECORDS))
    for name in ('a.json', 'a.jsonl'):
        entries = read(text, name)
        assert [e.value for e in entries] == RECORDS
        assert all(e.is_line for e in entries)
    assert [e.number for e in read(text, 'a.jsonl')][1] == 1 + end.count('\n')


def test_objects_over_several_lines(read):
    text = '\n'.join(json.dumps(record, indent=1) for record in RECORDS)
    if json_stream._CHUNK_CHARACTERS > 7:
        assert [e.value for e in read(text)] == RECORDS


def test_one_line_is_a_record_and_no_table(read):
    assert [e.value for e in read(json.dumps(RECORDS[0]), 'a.jsonl')] == [
        RECORDS[0]
    ]


def test_a_wrong_line_is_reported_alone(read):
    lines = [json.dumps(RECORDS[0]), '{"a": ', json.dumps(RECORDS[1])]
    entries = read('\n'.join(lines), 'a.jsonl')
    assert [isinstance(e.value, InvalidJson) for e in entries] == [0, 1, 0]


@pytest.mark.parametrize(
    ('content', 'reason'),
    [
        ('[{"a": 1}, {"a": 2}', 'after 2 values .*ends too early'),
        ('[{"a": 1}, {"a": "2', 'after 1 values .*ends too early'),
        ('[{"a": 1}, {"a" 2}, {"a": 3}]', 'after 1 values'),
        ('[{"a": 1}, ]', 'after 1 values .*comma after the last entry'),
        ('{"a": [{"b": 1}', 'after 1 values'),
        ('[1] [2]', 'after 1 values'),
    ],
)
def test_values_before_damage_are_read(read, content, reason):
    *entries, last = read(content)
    assert all(not isinstance(e.value, InvalidJson) for e in entries)
    assert isinstance(last.value, DamagedFile)
    assert 'the rest is not read' in last.value.reason
    import re

    assert re.search(reason, last.value.reason), last.value.reason


def test_deep_nesting_is_damage(read):
    *_, last = read('[' + '[' * 200_000)
    assert 'nested too deeply' in last.value.reason


def test_a_gzip_file_is_read_up_to_its_damage(tmp_path):
    records = [dict(caption=f'{i} {i**9 % 997}') for i in range(99999)]
    text = json.dumps(records)
    data = gzip.compress(text.encode())
    path = tmp_path / 'a.json.gz'
    path.write_bytes(data)
    assert len(list(stream_json(path))) == 99999
    path.write_bytes(data[: len(data) // 2])
    *entries, last = stream_json(path)
    assert 'cannot be decompressed' in last.value.reason
    assert len(entries) > 10_000


def test_a_long_line_is_skipped(tmp_path, monkeypatch):
    monkeypatch.setattr(json_stream, 'MAX_VALUE_CHARACTERS', 100)
    monkeypatch.setattr(json_stream, '_CHUNK_CHARACTERS', 10)
    path = tmp_path / 'a.jsonl'
    lines = ['{"a": 1}', json.dumps(dict(a='x' * 500)), '{"a": 3}']
    path.write_text('\n'.join(lines))
    entries = list(stream_json(path))
    assert [e.number for e in entries] == [1, 2, 3]
    assert 'is longer than 100' in entries[1].value.reason
    assert entries[2].value == dict(a=3)


def test_duplicate_keys_and_nan_remain_visible(read):
    entries = read('[{"a": 1, "a": 2}, {"a": NaN}]')
    assert isinstance(entries[0].value, DuplicateKey)
    assert entries[1].value['a'] != entries[1].value['a']


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', 'it is empty'),
        (b'<!doctype html><p>', 'HTML'),
        (b'version https://git-lfs.github.com/spec/v1', 'git lfs pull'),
        (b'\x1f\x8bnot gzip', 'cannot be decompressed'),
    ],
)
def test_what_is_no_text_is_refused(read, content, message):
    with pytest.raises(ValueError, match=message):
        read(content)
