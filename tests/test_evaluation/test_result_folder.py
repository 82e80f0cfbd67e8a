# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The result folder: resuming, settings, damaged and locked files."""

import json
import resource

import pytest

from minigpt4.evaluation.result_folder import ResultFolder, format_score


def open_folder(folder, overwrite=False, **settings):
    return ResultFolder(folder, 'p', settings, 'rows.jsonl', overwrite)


def test_rows_of_an_earlier_run_are_read(tmp_path):
    with open_folder(tmp_path / 'new', seed=0) as first:
        first.add([dict(a=1), dict(a='ü\n')])
    with open_folder(tmp_path / 'new', seed=0) as second:
        assert second.rows == [dict(a=1), dict(a='ü\n')]
        second.keep(1)
        second.add([dict(a=3)])
        second.write_summary(dict(score=2))
    with open_folder(tmp_path / 'new', seed=0) as third:
        assert third.rows == [dict(a=1), dict(a=3)]
    summary = json.loads((tmp_path / 'new' / 'summary.json').read_text())
    assert summary == dict(protocol='p', settings=dict(seed=0), score=2)


def test_a_line_that_was_cut_is_removed(tmp_path):
    with open_folder(tmp_path) as first:
        first.add([dict(a=1), dict(a=2)])
    file = tmp_path / 'rows.jsonl'
    file.write_bytes(file.read_bytes()[:-3])
    with open_folder(tmp_path) as second:
        assert second.rows == [dict(a=1)]
    assert file.read_text() == '{"a": 1}\n'


def test_a_damaged_file_is_refused_and_kept(tmp_path):
    with open_folder(tmp_path) as first:
        first.add([dict(a=1)])
    file = tmp_path / 'rows.jsonl'
    file.write_text('x\n{"a": 1}\n')
    with pytest.raises(ValueError, match='is damaged .byte 0'):
        open_folder(tmp_path)
    assert file.read_text() == 'x\n{"a": 1}\n'
    with open_folder(tmp_path, overwrite=True) as third:
        assert third.rows == []


def test_other_settings_are_refused(tmp_path):
    with open_folder(tmp_path, seed=0, model='a') as first:
        first.add([dict(a=1)])
    with pytest.raises(ValueError, match='seed 0 instead of 1'):
        open_folder(tmp_path, seed=1, model='a')
    (tmp_path / 'settings.json').write_text('[]')
    with pytest.raises(ValueError, match='is not the settings'):
        open_folder(tmp_path, seed=0, model='a')


def test_settings_without_a_result_are_replaced(tmp_path):
    open_folder(tmp_path, seed=0).close()
    with open_folder(tmp_path, seed=1):
        settings = json.loads((tmp_path / 'settings.json').read_text())
        assert settings == dict(protocol='p', seed=1)
        # a process writes to another file of the folder, or has written
        with pytest.raises(ValueError, match='seed 1 instead of 2'):
            ResultFolder(tmp_path, 'p', dict(seed=2), 'other.jsonl')
    ResultFolder(tmp_path, 'p', dict(seed=2), 'other.jsonl').close()
    with open_folder(tmp_path, seed=2) as last:
        last.add([dict(a=1)])
    with pytest.raises(ValueError, match='seed 2 instead of 3'):
        ResultFolder(tmp_path, 'p', dict(seed=3), 'other.jsonl')


def test_a_second_process_is_refused(tmp_path):
    with (
        open_folder(tmp_path),
        pytest.raises(ValueError, match='another process writes'),
    ):
        open_folder(tmp_path)


def test_nothing_is_written_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with ResultFolder(None, 'p', {}, 'rows.jsonl') as results:
        results.add([dict(a=1)])
        results.keep(0)
        results.write_summary({})
        assert results.rows == []
    assert not list(tmp_path.iterdir())


def test_a_score_of_nothing_is_not_defined():
    score = dict(value=None, interval=None)
    assert format_score(score, '%') == 'not defined'


def test_a_full_disk_is_named(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with ResultFolder(tmp_path / 'a', 'p', {}, 'answers.jsonl') as results:
        results.add([dict(id=1)])
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        try:
            with pytest.raises(OSError, match='make space') as error:
                results.add([dict(id=2, answer='a' * 10_000)])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert error.value.filename == str(tmp_path / 'a' / 'answers.jsonl')
    with ResultFolder(tmp_path / 'a', 'p', {}, 'answers.jsonl') as results:
        assert results.rows == [dict(id=1)]


def test_a_score_without_an_interval_is_written():
    assert format_score(dict(value=0.5, interval=None), '%') == '50.00 %'
    assert format_score(dict(value=None, interval=None)) == 'not defined'


def test_sorted_rows_are_sorted_in_the_file_too(tmp_path):
    def number(row):
        return row['a']

    with open_folder(tmp_path) as first:
        first.add([dict(a=3), dict(a=1, b='ü'), dict(a=2)])
        first.sort(number)
        assert [row['a'] for row in first.rows] == [1, 2, 3]
        with pytest.raises(ValueError, match='another process writes'):
            open_folder(tmp_path)
        first.add([dict(a=4)])
        first.keep(3)
        first.add([dict(a=0)])
    lines = (tmp_path / 'rows.jsonl').read_text().splitlines()
    assert [json.loads(line)['a'] for line in lines] == [1, 2, 3, 0]
    with open_folder(tmp_path) as second:
        second.sort(number)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ['rows.jsonl', 'settings.json']
    with ResultFolder(None, 'p', {}, 'rows.jsonl') as third:
        third.add([dict(a=2), dict(a=1)])
        third.sort(number)
        assert third.rows == [dict(a=1), dict(a=2)]
