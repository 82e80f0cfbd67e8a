# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The results database: transactions, order, lock, damage, full disks."""

import multiprocessing
import os
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from minigpt4.captioning.results import CaptionResult, ResultsDatabase
from minigpt4.utils.errors import one_line

PROVENANCE = dict(model='m', weights=None, settings={'seed': 1})


def result(name, caption='c', **fields):
    return CaptionResult(
        name, 'prompt', caption, bytes=1, modified_ns=2, **fields, **PROVENANCE
    )


def failure(name, error='bad'):
    return CaptionResult(name, 'prompt', error=error, **PROVENANCE)


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Path('out.sqlite')


def opened(path, overwrite=False, **provenance):
    return ResultsDatabase(path, PROVENANCE | provenance, overwrite)


def stored(path):
    with opened(path) as database:
        return list(database.results())


def fill(path, n=3):
    results = [result(f'{i}.png', f'caption {i}') for i in range(n)]
    with opened(path) as database:
        database.add(results)
    return results


@pytest.mark.parametrize(
    'name',
    ['a.png', 'é \u202e.png', 'a\0b', os.fsdecode(b'\xff.png'), '\ud800'],
)
def test_every_field_is_restored(path, name):
    results = [
        replace(
            result(name, 'one\n"two"', finished=False, tokens=3),
            modified_ns=2**62,
        ),
        replace(failure(name), prompt=name),
    ]
    with opened(path) as database:
        database.add(results)
        assert list(database.results()) == results
    assert stored(path) == results
    with opened(path) as database:
        assert database.image_state(results[0].key) == (1, 2**62)
        assert database.image_state(results[1].key) is None
        assert database.error(results[0].key) is None
        assert database.error(results[1].key) == 'bad'


def test_a_result_replaces_the_older_one_and_moves_to_the_end(path):
    fill(path)
    with opened(path) as database:
        database.add([result('0.png', 'new'), result('0.png', 'newer')])
        assert len(database) == 3
    assert [(r.image, r.caption) for r in stored(path)] == [
        ('1.png', 'caption 1'),
        ('2.png', 'caption 2'),
        ('0.png', 'newer'),
    ]


def test_a_repeated_error_is_not_stored_again(path):
    with opened(path) as database:
        database.add([failure('a'), result('b')])
        database.add([failure('a')])
        assert [r.image for r in database.results()] == ['a', 'b']
        database.add([failure('a', 'other')])
        assert [r.image for r in database.results()] == ['b', 'a']


def test_results_are_sorted_and_the_others_follow(path):
    keys = [r.key for r in fill(path, 5)]
    with opened(path) as database:
        database.sort([keys[4], ('missing', ''), keys[1], keys[4]])
        database.add([result('5.png')])
    names = ['4.png', '1.png', '0.png', '2.png', '3.png', '5.png']
    assert [r.image for r in stored(path)] == names
    with opened(path) as database:
        database.remove([keys[1]])
        database.sort([keys[3]])
    names = ['3.png', '4.png', '0.png', '2.png', '5.png']
    assert [r.image for r in stored(path)] == names


def test_relative_and_absolute_names_of_one_image_are_one_result(
    path, monkeypatch
):
    (path.absolute().parent / 'sub').mkdir()
    with opened(path) as database:
        database.add([result('a.png', 'old'), result('b.png')])
        database.add([result(os.path.abspath('sub/a.png'), 'new')])
    monkeypatch.chdir('sub')
    (found,) = [r for r in stored(Path('../out.sqlite')) if 'a.png' in r.image]
    assert found.caption == 'new'
    assert len(stored(Path('../out.sqlite'))) == 2


def test_a_failed_batch_leaves_nothing(path):
    fill(path)

    def broken():
        yield result('new.png')
        yield result('0.png', 'changed')
        raise RuntimeError('stop')

    with opened(path) as database:
        with pytest.raises(RuntimeError):
            database.add(broken())
        assert len(database) == 3
        assert [r.caption for r in database.results()] == [
            f'caption {i}' for i in range(3)
        ]
        database.add([result('new.png')])
    assert len(stored(path)) == 4


def test_an_empty_database_leaves_no_file(path):
    with opened(path):
        assert path.exists()
    assert not os.listdir()


def test_one_file_remains_after_closing(path):
    fill(path)
    assert os.listdir() == ['out.sqlite']


@pytest.mark.parametrize(
    'other', [dict(model='n'), dict(weights='w'), dict(settings={})]
)
def test_results_of_another_provenance_are_refused(path, other):
    results = fill(path)
    (name,) = other
    with pytest.raises(ValueError, match=f'answers with {name} .* now it is'):
        opened(path, **other)
    assert stored(path) == results
    with opened(path, overwrite=True, **other) as database:
        assert not len(database) and not list(database.results())
        database.add([replace(result('a'), **other)])
    with opened(path, **other) as database:
        assert len(database) == 1


def add_and_wait(n, connection):
    database = opened(Path('out.sqlite'))
    for i in range(n):
        database.add([result(f'{i}.png', str(i))])
    connection.send('ready')
    connection.recv()


def test_one_process_writes_and_a_killed_one_loses_nothing(path):
    context = multiprocessing.get_context('fork')
    connection, other = context.Pipe()
    process = context.Process(target=add_and_wait, args=(25, other))
    process.start()
    try:
        assert connection.recv() == 'ready'
        for overwrite in (False, True):
            with pytest.raises(BlockingIOError, match='another process is'):
                opened(path, overwrite)
    finally:
        process.kill()
        process.join()
    assert [r.caption for r in stored(path)] == [str(i) for i in range(25)]


def damage_header(data):
    return b'\x89PNG' + data[4:]


def damage_pages(data):
    return data[:4096] + bytes(4096) * (len(data) // 4096 - 1)


def damage_text(data):
    return data.replace(b'caption 7', b'capt\xff\xfe\xff 7')


@pytest.mark.parametrize(
    'damage',
    [
        damage_header,
        damage_pages,
        lambda data: data[: len(data) // 2],
        lambda data: data[:1000],
        lambda data: b'image,prompt\na.png,x\n',
        lambda data: data[:4096] + os.urandom(4096) + data[8192:],
    ],
    ids=['header', 'zeros', 'half', 'cut', 'text', 'random'],
)
def test_a_damaged_database_is_refused_with_a_one_line_error(path, damage):
    fill(path, 200)
    damaged = damage(path.read_bytes())
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match='out.sqlite is damaged or') as error:
        stored(path)
    assert 'give another -o, or --overwrite' in one_line(error.value)
    assert path.read_bytes() == damaged
    with opened(path, overwrite=True) as database:
        database.add([result('a.png')])
    assert len(stored(path)) == 1 and os.listdir() == ['out.sqlite']


def test_text_that_is_not_utf8_is_damage(path):
    fill(path, 9)
    path.write_bytes(damage_text(path.read_bytes()))
    with pytest.raises(ValueError, match='out.sqlite is damaged'):
        stored(path)


@pytest.mark.parametrize('overwrite', [False, True])
def test_a_database_of_another_program_is_not_changed(path, overwrite):
    with sqlite3.connect(path) as other:
        other.execute('CREATE TABLE mine (x)')
    other.close()
    before = path.read_bytes()
    with pytest.raises(ValueError, match='of another program'):
        opened(path, overwrite)
    assert path.read_bytes() == before


def test_a_database_of_a_later_release_is_refused(path):
    fill(path)
    with sqlite3.connect(path) as other:
        other.execute('PRAGMA user_version = 2')
    other.close()
    with pytest.raises(ValueError, match='has version 2 of .* reads version'):
        opened(path)


@pytest.mark.parametrize('kind', ['fifo', 'device', 'folder'])
def test_the_database_is_a_regular_file(path, kind):
    if kind == 'fifo':
        os.mkfifo(path)
    elif kind == 'device':
        path.symlink_to('/dev/zero')
    else:
        path.mkdir()
    with pytest.raises(ValueError, match='out.sqlite is not a regular file'):
        opened(path)


def test_a_folder_that_is_a_file_or_not_writable_is_an_os_error(
    path, monkeypatch
):
    Path('file').write_text('')
    with pytest.raises(NotADirectoryError, match='file is a file'):
        opened(Path('file/out.sqlite'))
    with pytest.raises(OSError) as error:  # even for root
        opened(Path('/proc/out.sqlite'))
    assert '/proc/out.sqlite: ' in one_line(error.value)
    # root may write everywhere
    monkeypatch.setattr(os, 'access', lambda *args: False)
    with pytest.raises(PermissionError) as error:
        opened(path)
    assert one_line(error.value) == 'out.sqlite: Permission denied'
    assert not path.exists()


def test_a_full_disk_keeps_what_was_stored(path, monkeypatch):
    fill(path)
    connect = sqlite3.connect

    def limited(*args, **kwargs):
        database = connect(*args, **kwargs)
        database.execute('PRAGMA max_page_count = 8')
        return database

    with monkeypatch.context() as patched:
        patched.setattr(sqlite3, 'connect', limited)
        with opened(path) as database:
            database.add([result('small.png')])
            with pytest.raises(OSError) as error:
                database.add([result('large.png', 'x' * 100_000)])
            assert 'No space left on device; what was stored' in one_line(
                error.value
            )
            assert len(database) == 4
    assert len(stored(path)) == 4


@pytest.mark.parametrize('name', ['file:x.sqlite', 'a?mode=ro#%20.sqlite'])
def test_a_file_name_is_not_read_as_a_uri(tmp_path, monkeypatch, name):
    """It never returned: SQLite opened x.sqlite."""
    monkeypatch.chdir(tmp_path)
    with opened(Path(name)) as database:
        database.add([result('a.png')])
    assert os.listdir() == [name]
