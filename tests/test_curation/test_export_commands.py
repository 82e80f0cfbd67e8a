# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The actions export and report, as the command runs them."""

import json

import pytest
from tests import curated_ledger
from tests.curated_ledger import make_ledger, review

from minigpt4.curation import export_commands
from minigpt4.curation.ledger import Ledger
from minigpt4_cli.main import main


@pytest.fixture
def command(tmp_path, monkeypatch):
    make_ledger(tmp_path).close()
    monkeypatch.setattr(
        export_commands, 'build_steps', lambda s: curated_ledger.steps()
    )

    def run(action, *words):
        ledger = str(tmp_path / 'ledger.sqlite')
        return main(['curate', action, '--ledger', ledger, *map(str, words)])

    return run


def test_an_export_states_what_it_has(command, tmp_path, capsys):
    out = tmp_path / 'out'
    layouts = ['--layout', 'llava', '--layout', 'preference']
    assert command('export', '-o', out, *layouts) == 0
    printed = capsys.readouterr()
    assert '4 images exported to' in printed.out
    assert 'llava.json: 4 records' in printed.out
    assert 'preference.jsonl: 1 records' in printed.out
    assert '1 images were converted to JPEG' in printed.out
    assert '1 not exported: dropped by a rule' in printed.out
    assert '4 of the exported texts were not reviewed' in printed.err
    assert command('export', '-o', out) == 1
    assert 'not empty' in capsys.readouterr().err
    assert command('export', '-o', out, '--overwrite') == 0
    assert (out / 'filter_cap.json').exists()
    assert not (out / 'llava.json').exists()


def test_flags_are_settings(command, tmp_path, capsys):
    with Ledger(tmp_path / 'ledger.sqlite') as ledger:
        review(ledger, 1, 'accept')
        review(ledger, 1, 'reject', 'bob')
        review(ledger, 2, 'accept')
    assert command('export', '-o', tmp_path / 'a') == 0
    assert 'only reviewed images' in capsys.readouterr().err
    flags = ['--agree', 'any', '--unreviewed', '--images', 'symlink']
    assert command('export', '-o', tmp_path / 'b', *flags) == 0
    stored = [
        json.loads((tmp_path / name / 'datasheet.json').read_text())
        for name in 'ab'
    ]
    assert [s['counts']['exported'] for s in stored] == [1, 4]
    assert (tmp_path / 'b/image/1.jpg').is_symlink()


def test_images_that_cannot_be_exported_are_named(command, tmp_path, capsys):
    (tmp_path / 'photos' / '1.jpeg').unlink()
    assert command('export', '-o', tmp_path / 'out') == 1
    error = capsys.readouterr().err
    assert '3 of the exported texts were not reviewed' in error
    assert '1 not exported: the file is missing' in error
    assert '1.jpeg does not exist' in error


def test_a_report_is_printed_and_written(command, tmp_path, capsys):
    page = tmp_path / 'report.html'
    assert command('report', '-o', page) == 0
    printed = capsys.readouterr()
    assert 'about 3,500 (70 %)' in printed.out
    assert '4 of the selected texts were not reviewed' in printed.err
    assert 'apology' in printed.out
    assert 'apology: 1' in page.read_text('utf-8')
    assert not (tmp_path / 'out').exists()


def test_a_file_that_is_no_report_is_not_replaced(command, tmp_path, capsys):
    page = tmp_path / 'notes.html'
    page.write_text('mine')
    assert command('report', '-o', page) == 1
    assert 'is not a report' in capsys.readouterr().err
    assert page.read_text() == 'mine'


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--set', 'export.layouts=[yolo]'], 'export.layouts'),
        (['--set', 'export.agre=any'], 'did you mean agree'),
        (['--config', 'missing.yml'], 'missing.yml'),
    ],
)
def test_wrong_settings_are_named(command, tmp_path, capsys, words, message):
    assert command('export', '-o', tmp_path / 'out', *words) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()
