# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Files of JSON and JSON lines are read, others are refused."""

import gzip
import json
import os

import pytest

from minigpt4.datasets.json_values import DuplicateKey, InvalidJson
from minigpt4.datasets.record_files import read_record_file

ITEM = {'image_id': '1', 'caption': 'a dog'}
TEXT = json.dumps(ITEM)


@pytest.fixture
def read(tmp_path):
    """Function that writes a file and reads it as records."""

    def read(content, name='a.json'):
        path = tmp_path / name
        data = content if isinstance(content, bytes) else content.encode()
        path.write_bytes(data)
        return read_record_file(path)

    return read


@pytest.mark.parametrize('name', ['a.json', 'a.jsonl', 'a'])
@pytest.mark.parametrize(
    'content',
    [
        f'[{TEXT}, {TEXT}]',
        f'\ufeff[{TEXT}, {TEXT}]',
        f'[{TEXT},\r\n{TEXT}]\r\n',
        f'{{"annotations": [{TEXT}, {TEXT}]}}',
        f'{TEXT}\n{TEXT}',
        f'\ufeff{TEXT}\r\n\r\n{TEXT}\r\n',
        json.dumps([ITEM, ITEM], indent=4),
        json.dumps(ITEM, indent=4) * 2,
    ],
)
def test_json_and_json_lines_are_detected_by_content(read, content, name):
    assert read(content, name).records == [ITEM, ITEM]


def test_one_json_line_is_one_record(read):
    assert read(TEXT).records == [ITEM]


def test_line_separators_in_a_string_do_not_split_a_line(read):
    item = {'image_id': '1', 'caption': 'a\u2028b\x85c'}
    line = json.dumps(item, ensure_ascii=False)
    assert read(f'{line}\n{line}').records == [item, item]


def test_invalid_line_is_one_invalid_record(read):
    found = read(f'{TEXT}\n{{"caption": \n{TEXT}').records
    assert found[0] == found[2] == ITEM
    assert isinstance(found[1], InvalidJson)
    assert 'line 1, column' in found[1].reason
    # in a file of that name even as the first
    found = read(f'nonsense\n{TEXT}\n', 'a.jsonl').records
    assert isinstance(found[0], InvalidJson) and found[1] == ITEM


def test_deeply_nested_value_becomes_null(read):
    deep = '{"caption":' + '[' * 20000 + ']' * 20000 + '}'
    found = read(f'[{TEXT}, {deep}, {TEXT}]').records
    assert found[0] == found[2] == ITEM
    assert isinstance(found[1]['caption'], list)
    found = read(f'{TEXT}\n{deep}\n{TEXT}').records
    assert found[0] == found[2] == ITEM


def test_huge_numbers_and_nan_are_read(read):
    item = '{"image_id": %s, "caption": "c"}'
    found = read(f'[{item % ("9" * 5000)}, {item % "NaN"}, {TEXT}]').records
    assert [type(i['image_id']) for i in found] == [float, float, str]


def test_duplicate_keys_are_detected(read):
    found = read('[{"caption": "a", "caption": "b"}]').records[0]
    assert isinstance(found, DuplicateKey) and found.key == 'caption'
    with pytest.raises(ValueError, match="has the key 'annotations' twice"):
        read('{"annotations": [], "annotations": []}')


def test_table_of_images_is_read(read):
    content = dict(
        info={},
        images=[
            dict(id=9, file_name='9.jpg'),
            dict(id=8, file_name='a'),
            dict(id=8, file_name='b'),
            dict(id=7),
            'noise',
        ],
        annotations=[dict(id=1, image_id=9, caption='c')],
    )
    found = read(json.dumps(content))
    assert found.file_names == {'9': '9.jpg', '8': None, '7': None}
    assert read(f'[{TEXT}]').file_names is None


@pytest.mark.parametrize('key', ['bbox', 'segmentation'])
def test_instances_of_coco_are_refused(read, key):
    content = dict(annotations=[{'id': 1, 'image_id': 9, key: []}])
    with pytest.raises(ValueError, match=r'instances file .*captions_\*'):
        read(json.dumps(content))


@pytest.mark.parametrize(
    'content, message',
    [
        (b'', 'it is empty'),
        (b' \r\n', 'it is empty'),
        (b'\xef\xbb\xbf', 'it is empty'),
        (bytes(300), 'zeros; download it again'),
        (TEXT.encode('utf-16'), 'UTF-16 .*save it as UTF-8'),
        (TEXT.encode('utf-16-le'), 'UTF-16 .*save it as UTF-8'),
        (TEXT.encode('utf-32-be'), 'UTF-16 or UTF-32'),
        ('[{"caption": "é"}]'.encode('latin-1'), 'byte 14 is not UTF-8'),
        (gzip.compress(TEXT.encode(), mtime=0), 'a gzip archive; unpack it'),
        (b'PK\x03\x04 ...', 'a ZIP archive; unpack it'),
        (b'PAR1', 'a Parquet file'),
        (b'version https://git-lfs.github.com/spec/v1\n', 'git lfs pull'),
        (b'\n<!DOCTYPE html><html>', 'an HTML or XML page'),
        (b'{"annotations": [{"caption": "a"}', 'file ends too early'),
        (b'[{"a": 1},\n]', r'line 2.*comma|Illegal trailing comma.*comma'),
        (b'[{"a": 1,\n}]', 'remove (it|the comma)'),
        (b'{\n"annotations": [\n{"caption": \'a\'}]}', 'line 3, column'),
        (b'[' * 100000, 'nested more than 50 levels'),
        (b'{"caption":' * 100000, 'nested more than 50 levels'),
        (b'image,caption\n1,a dog\n', 'line 1, column 1'),
    ],
)
def test_other_file_types_are_refused(read, content, message):
    with pytest.raises(ValueError, match=message) as error:
        read(content)
    assert 'a.json is no JSON file (' in str(error.value)
    assert str(error.value).isprintable()


def test_error_of_a_file_without_records_lists_its_keys(read):
    with pytest.raises(ValueError, match='with the keys info, images'):
        read('{"info": 1, "images": []}')


def test_file_that_blocks_is_refused(tmp_path):
    os.mkfifo(tmp_path / 'a.json')
    with pytest.raises(ValueError, match='is a FIFO; expected a regular'):
        read_record_file(tmp_path / 'a.json')
    (tmp_path / 'b.json').symlink_to('/dev/zero')
    with pytest.raises(ValueError, match='is a character device'):
        read_record_file(tmp_path / 'b.json')


@pytest.mark.timeout(20)
def test_duplicate_key_in_a_large_object_is_found_fast(read):
    """charleskorn/kaml #168: 60,000 keys took a minute."""
    keys = ', '.join(f'"key {i}": 0' for i in range(60_000))
    found = read('[{' + keys + ', "key 7": 1}]').records[0]
    assert isinstance(found, DuplicateKey) and found.key == 'key 7'
