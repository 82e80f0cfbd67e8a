# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
import sqlite3
import time

import pytest

from minigpt4.data_tools.data_items import DataItem, ImageRef, Span
from minigpt4.prompts import Turn
from minigpt4.serving.browse.record_index import RecordIndex


def item(name, text, error=None, images=()):
    return DataItem('set', name, images, (Turn('What?', text),), error)


@pytest.fixture
def index(tmp_path):
    found = RecordIndex(tmp_path / 'a.sqlite')
    found.fill(
        [
            item('one', 'A Dog  runs'),
            item('two', 'a cat', 'it is bad'),
            item('three', 'ÉTÉ 100%_'),
            item('dog-4', 'a tree'),
        ]
    )
    return found


def numbers(index, **options):
    return [entry.number for entry in index.page(**options)]


def test_pages(index):
    assert index.count == 4
    assert numbers(index) == [1, 2, 3, 4]
    assert numbers(index, limit=2) == [1, 2]
    assert numbers(index, after=2, limit=2) == [3, 4]
    assert numbers(index, after=4) == []


@pytest.mark.parametrize(
    ('query', 'expected'),
    [
        ('dog', [1, 4]),
        ('dog RUNS', [1]),
        ('été', [3]),
        ('%_', [3]),
        ("'; DROP TABLE records", []),
        ('  ', [1, 2, 3, 4]),
        ('what?', [1, 2, 3, 4]),
    ],
)
def test_search(index, query, expected):
    assert numbers(index, query=query) == expected
    assert index.matches(query) == len(expected)


def test_invalid_records(index):
    assert numbers(index, invalid=True) == [2]
    assert index.matches(invalid=True) == 1
    assert numbers(index, invalid=True, query='dog') == []


def test_a_record_is_returned_as_it_was(tmp_path):
    images = (
        ImageRef('a', '/x/a.jpg'),
        ImageRef('b', span=Span('0.tar', 512, 2048)),
    )
    given = item('one', 'قطة', None, images)
    index = RecordIndex(tmp_path / 'a.sqlite')
    index.fill([given])
    assert index.item(1) == given
    assert index.item(2) is None


def test_names_that_are_not_utf_8(tmp_path):
    index = RecordIndex(tmp_path / 'a.sqlite')
    index.fill(
        [item('a', 'b', images=(ImageRef('\udcff.jpg', '\udcff.jpg'),))]
    )
    assert index.item(1).images[0].path == '\udcff.jpg'


def test_a_full_disk_is_an_error(tmp_path, monkeypatch):
    index = RecordIndex(tmp_path / 'a.sqlite')
    connect = sqlite3.connect

    def small(path):
        database = connect(path)
        database.execute('PRAGMA max_page_count=10')
        return database

    monkeypatch.setattr(sqlite3, 'connect', small)
    with pytest.raises(sqlite3.Error, match='full'):
        index.fill(item(str(i), 'text ' * 200) for i in range(3000))
    assert index.count < 3000


def test_many_records_are_paged_fast(tmp_path):
    index = RecordIndex(tmp_path / 'a.sqlite')
    index.fill(item(str(i), f'text {i}') for i in range(50_000))
    start = time.process_time()
    assert numbers(index, after=49_000, limit=1) == [49_001]
    assert index.matches('text 49999') == 1
    assert time.process_time() - start < 1
