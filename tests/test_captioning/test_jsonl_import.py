# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Results of release 0.1, and of exports, in a new database."""

import fcntl
import json
import os
import shutil
from pathlib import Path

import pytest

from minigpt4.captioning.exports import write_export
from minigpt4.captioning.jsonl_import import import_jsonl
from minigpt4.captioning.results import CaptionResult, ResultsDatabase
from minigpt4_cli import main as cli

ROOT = Path(__file__).parents[2]
# written by release 0.1: `minigpt4 caption photos -o captions.csv
# --max-new-tokens 30`; the files were changed at this time
LEDGER = Path(__file__).parent / 'release_0_1' / 'captions.jsonl'
MODIFIED_NS = 1767323045000000678
PROVENANCE = dict(
    model='minigpt-4_nano_caption',
    weights=None,
    settings={'max_new_tokens': 30},
)


@pytest.fixture
def database(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with ResultsDatabase(Path('captions.sqlite'), PROVENANCE) as database:
        yield database


def imported(database, data, name='captions.jsonl'):
    Path(name).write_bytes(data)
    try:
        return import_jsonl(Path(name), database)
    finally:
        assert Path(name).read_bytes() == data


def test_results_of_release_0_1_are_imported(database):
    data = LEDGER.read_bytes()
    assert imported(database, data) == (
        'captions.jsonl: 3 results were imported into captions.sqlite.'
    )
    expected = [CaptionResult(**json.loads(x)) for x in data.splitlines()]
    assert list(database.results()) == expected
    write_export(database.results(), Path('export.jsonl'))
    assert Path('export.jsonl').read_bytes() == data


@pytest.mark.parametrize('out', ['captions.csv', 'captions.jsonl'])
def test_a_run_of_release_0_1_continues(
    tmp_path, monkeypatch, capsys, loads, requests, out
):
    """It was killed after two of four images; one has changed since."""
    monkeypatch.chdir(tmp_path)
    Path('photos').mkdir()
    shutil.copy(ROOT / 'demo/scene.png', 'photos')
    examples = ROOT / 'projects/minigpt4/serving/web/examples'
    for name in ('nano1.png', 'nano2.png'):
        shutil.copy(examples / name, 'photos')
    for path in Path('photos').iterdir():
        os.utime(path, ns=(MODIFIED_NS, MODIFIED_NS))
    os.utime('photos/scene.png')
    Path('photos/text.png').write_text('no image')
    lines = LEDGER.read_bytes()
    Path('captions.jsonl').write_bytes(lines[: lines.index(b'photos/text')])
    command = ['caption', 'photos', '-o', out, '--max-new-tokens', '30']
    assert cli.main(command) == 1
    err = capsys.readouterr().err
    assert (
        'captions.jsonl: 2 results were imported into captions.sqlite; its '
        'last line (3) was cut off and is omitted.\n'
    ) in err
    assert '2 answered' in err and '1 already done, 1 failed; 4 rows' in err
    assert len(requests) == 2
    assert cli.main([*command, '-q']) == 1
    assert not capsys.readouterr().err and len(requests) == 2
    assert cli.main([*command[:2], '-o', 'captions.jsonl', *command[4:]]) == 1
    found = [json.loads(x) for x in Path('captions.jsonl').open()]
    assert [Path(row['image']).stem for row in found] == [
        'nano1',
        'nano2',
        'scene',
        'text',
    ]
    assert found[0] == json.loads(lines.splitlines()[0])


@pytest.mark.parametrize(
    'damage, number',
    [
        (lambda data: data[:-9], 3),
        (lambda data: data + b'{"ima', 4),
        (lambda data: data + bytes(4096), 4),
        (lambda data: data[:-9] + bytes(4096), 3),
    ],
)
def test_a_last_line_that_was_cut_off_is_omitted(database, damage, number):
    message = imported(database, damage(LEDGER.read_bytes()))
    assert f'its last line ({number}) was cut off and is omitted' in message
    assert len(database) == number - 1


def test_a_last_line_without_a_line_end_is_imported(database):
    message = imported(database, LEDGER.read_bytes()[:-1])
    assert '3 results' in message and 'cut off' not in message


@pytest.mark.parametrize(
    'damage',
    [
        lambda data: b'{}\n' + data,
        lambda data: data[:50] + b'\0' * 60 + data[110:],
        lambda data: data.replace(b'"tokens": 22', b'"tokens": "22"'),
        lambda data: data.replace(b'"bytes": 6', b'"bytes": ' + b'6' * 30),
        lambda data: data.replace(b'"error"', b'"reason"'),
        lambda data: b'\x89PNG\r\n\x1a\n' + data,
        lambda data: b'[' * 99999 + b'\n' + data,
        lambda data: b'{"image": "a.png", "prompt": "x"}\n',
    ],
)
def test_a_damaged_file_is_refused_and_nothing_is_imported(database, damage):
    with pytest.raises(
        ValueError, match=r'jsonl holds something else than captions \(line 1'
    ):
        imported(database, damage(LEDGER.read_bytes()))
    assert not len(database) and not list(database.results())


def test_columns_of_a_later_release_are_named(database):
    row = dict(image='a', prompt='b', caption='c', model='m', score=1)
    with pytest.raises(ValueError, match='does not know: score'):
        imported(database, json.dumps(row).encode())


def test_missing_columns_have_their_defaults(database):
    row = dict(image='a', prompt='b', caption='c', **PROVENANCE)
    imported(database, json.dumps(row).encode())
    assert list(database.results()) == [CaptionResult(**row)]


def test_results_of_other_settings_are_refused(database):
    data = LEDGER.read_bytes().replace(b'_tokens": 30', b'_tokens": 31')
    with pytest.raises(ValueError, match=r'jsonl \(line 1\) holds answers wi'):
        imported(database, data)
    assert not len(database)


def test_a_file_that_release_0_1_is_writing_is_refused(database):
    with open('captions.jsonl', 'a') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError, match='another run is writing'):
            import_jsonl(Path('captions.jsonl'), database)


def test_the_file_is_a_regular_file(database):
    os.mkfifo('captions.jsonl')
    with pytest.raises(ValueError, match='captions.jsonl is a FIFO'):
        import_jsonl(Path('captions.jsonl'), database)
