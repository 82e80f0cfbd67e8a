# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Exports of caption results: columns, types, links, failures."""

import csv
import importlib.util
import json
import os
from pathlib import Path

import pytest

from minigpt4.captioning.exports import (
    COLUMNS,
    SUFFIXES,
    require_pyarrow,
    write_export,
)
from minigpt4.captioning.image_sources import find_images
from minigpt4.captioning.results import CaptionResult

RESULTS = [
    CaptionResult(
        'a.png',
        'What?',
        'One\n"shape".',
        finished=True,
        tokens=9,
        bytes=6359,
        modified_ns=1767323045000000678,
        model='m',
        settings={'stop': ['é']},
    ),
    CaptionResult('=1.png', '@b;\n-c', '+1', model='m', settings={}),
    CaptionResult(os.fsdecode(b'\xff.png'), 'What?', error='bad', model='m'),
]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_jsonl_has_every_text_exactly():
    write_export(RESULTS, Path('out.jsonl'))
    lines = Path('out.jsonl').read_text('utf-8').splitlines()
    assert [CaptionResult(**json.loads(line)) for line in lines] == RESULTS
    assert 'é' in lines[0]


def test_csv_has_no_formulas_and_is_a_list_of_the_same_images():
    for result in RESULTS:
        Path(result.image).touch()
    write_export(RESULTS, Path('out.csv'))
    with open('out.csv', newline='', encoding='utf-8') as file:
        header, *rows = csv.reader(file)
    assert tuple(header) == COLUMNS
    assert not [c for row in rows for c in row if c[:1] in [*'=+-@\t\r']]
    assert rows[2][0] == '\\udcff.png'
    assert [(e.image, e.prompt) for e in find_images(['out.csv'])] == [
        (result.image, result.prompt) for result in RESULTS
    ]


def test_parquet_has_types():
    parquet = pytest.importorskip('pyarrow.parquet')
    write_export(RESULTS, Path('out.parquet'))
    first, second, third = parquet.read_table('out.parquet').to_pylist()
    assert tuple(first) == COLUMNS
    assert first['tokens'] == 9 and first['finished'] is True
    assert first['modified_ns'] == 1767323045000000678
    assert json.loads(first['settings']) == {'stop': ['é']}
    assert second['image'] == '=1.png' and third['caption'] is None
    assert third['image'] == '\\udcff.png'


def test_parquet_without_pyarrow_is_an_import_error(monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'minigpt4\[parquet]"):
        require_pyarrow()


@pytest.mark.parametrize('suffix', SUFFIXES)
def test_a_failure_leaves_the_old_file(suffix):
    def broken():
        yield RESULTS[0]
        raise RuntimeError('stop')

    path = Path(f'out{suffix}')
    path.write_text('old')
    with pytest.raises(RuntimeError):
        write_export(broken(), path)
    assert path.read_text() == 'old' and os.listdir() == [path.name]


def test_the_target_of_a_link_is_replaced():
    Path('sub').mkdir()
    Path('out.jsonl').symlink_to('sub/real.jsonl')
    write_export(RESULTS, Path('out.jsonl'))
    assert Path('out.jsonl').is_symlink()
    assert len(Path('sub/real.jsonl').read_bytes().splitlines()) == 3
