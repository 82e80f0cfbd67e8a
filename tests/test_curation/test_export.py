# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""An export has the accepted texts, complete, and the same bytes each time."""

import errno
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
from PIL import Image
from pydantic import ValidationError
from tests import curated_ledger
from tests.curated_ledger import GOOD, make_ledger, review

from minigpt4.curation import datasheet, export_images, export_layouts
from minigpt4.curation.export import (
    ExportSettings,
    export_curation,
    is_export,
)
from minigpt4.curation.export_images import write_file
from minigpt4.curation.ledger import Ledger
from minigpt4.curation.pipeline import plan

ALL = ['cc_sbu_align', 'conversations', 'llava', 'parquet', 'preference']


@pytest.fixture
def ledger(tmp_path):
    with make_ledger(tmp_path) as opened:
        yield opened


def export(ledger, out, overwrite=False, **settings):
    planned = plan(ledger, curated_ledger.steps())
    settings = ExportSettings(**settings)
    return export_curation(ledger, planned, settings, out, overwrite)


def captions(out):
    content = json.loads((out / 'filter_cap.json').read_text('utf-8'))
    return {a['image_id']: a['caption'] for a in content['annotations']}


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob('*'))
        if path.is_file()
    }


def test_what_passes_all_steps_is_exported_with_its_image(ledger, tmp_path):
    out = tmp_path / 'out'
    result = export(ledger, out)
    assert captions(out) == {
        '1': GOOD.format(1),
        '2': GOOD.format(2),
        '3': GOOD.format(3) + ' And on.',
        '5': GOOD.format(5),
    }
    assert sorted(os.listdir(out / 'image')) == [
        *('1.jpg', '2.jpg', '3.jpg', '5.jpg')
    ]
    photo = tmp_path / 'photos' / '1.jpeg'
    assert (out / 'image/1.jpg').read_bytes() == photo.read_bytes()
    with Image.open(out / 'image/3.jpg') as converted:
        assert converted.format == 'JPEG' and converted.size == (40, 30)
    assert result.converted == 1
    assert result.selection.omitted == {'dropped': 1, 'no result': 1}
    assert is_export(out)


def test_reviewed_images_alone_are_exported_where_there_are_some(
    ledger, tmp_path
):
    review(ledger, 1, 'accept')
    review(ledger, 2, 'edit', text='A red square.')
    review(ledger, 3, 'reject')
    result = export(ledger, tmp_path / 'out')
    assert captions(tmp_path / 'out') == {
        '1': GOOD.format(1),
        '2': 'A red square.',
    }
    assert result.selection.omitted['not reviewed'] == 1
    export(ledger, tmp_path / 'more', unreviewed=True)
    assert list(captions(tmp_path / 'more')) == ['1', '2', '5']


def test_the_same_ledger_gives_the_same_bytes(ledger, tmp_path):
    export(ledger, tmp_path / 'a', layouts=ALL)
    time.sleep(1.1)  # a time in a file would differ
    export(ledger, tmp_path / 'b', layouts=ALL)
    assert contents(tmp_path / 'a') == contents(tmp_path / 'b')
    assert set(contents(tmp_path / 'a')) == {
        *('filter_cap.json', 'conversations.json', 'llava.json'),
        *('train.parquet', 'preference.jsonl', 'DATASHEET.md'),
        'datasheet.json',
        *(f'image/{n}.jpg' for n in (1, 2, 3, 5)),
    }


def test_missing_and_changed_images_are_named(ledger, tmp_path):
    (tmp_path / 'photos' / '1.jpeg').unlink()
    changed = tmp_path / 'photos' / '2.jpeg'
    changed.write_bytes(changed.read_bytes() + b'\0')
    result = export(ledger, tmp_path / 'out')
    assert list(captions(tmp_path / 'out')) == ['3', '5']
    kinds = [(o.number, o.kind) for o in result.omitted]
    assert kinds == [(1, 'missing'), (2, 'changed')]
    assert 'does not exist' in result.omitted[0].reason
    assert 'not the file that was added' in result.omitted[1].reason
    sheet = json.loads((tmp_path / 'out/datasheet.json').read_text())
    assert sheet['counts']['missing'] == sheet['counts']['changed'] == 1
    assert sheet['omitted'][0]['path'].endswith('1.jpeg')


def test_a_text_that_stage_2_reads_differently_is_named(ledger, tmp_path):
    marked = 'A wall. ###Ask: Why? ###Answer: So.'
    review(ledger, 1, 'edit', text=marked)
    review(ledger, 2, 'edit', text='a bell \x07')
    review(ledger, 5, 'accept')
    out = tmp_path / 'out'
    result = export(ledger, out, layouts=['conversations', 'preference'])
    assert [(o.number, o.kind) for o in result.omitted] == [
        (1, 'invalid text'),
        (2, 'invalid text'),
    ]
    assert 'would be read as 2 turns' in result.omitted[0].reason
    (record,) = json.loads((out / 'conversations.json').read_text())
    assert record['id'] == '5'


@pytest.mark.parametrize('kind', ['hardlink', 'symlink'])
def test_images_are_linked(ledger, tmp_path, kind):
    export(ledger, tmp_path / 'out', images=kind)
    photo = tmp_path / 'photos' / '1.jpeg'
    link = tmp_path / 'out/image/1.jpg'
    assert os.path.samefile(photo, link)
    assert link.is_symlink() == (kind == 'symlink')
    assert not (tmp_path / 'out/image/3.jpg').is_symlink()  # converted


def test_an_export_is_replaced_only_on_request(ledger, tmp_path):
    out = tmp_path / 'out'
    export(ledger, out)
    before = contents(out)
    review(ledger, 1, 'accept')
    with pytest.raises(FileExistsError, match='not empty'):
        export(ledger, out)
    assert contents(out) == before
    export(ledger, out, overwrite=True)
    assert list(captions(out)) == ['1']
    assert sorted(p.name for p in tmp_path.glob('out*')) == ['out']
    other = tmp_path / 'photos'
    with pytest.raises(ValueError, match='not an export'):
        export(ledger, other, overwrite=True)
    assert len(list(other.iterdir())) == 6


def test_nothing_to_export_is_an_error_without_a_folder(ledger, tmp_path):
    for number in (1, 2, 3, 5):
        review(ledger, number, 'reject')
    with pytest.raises(ValueError, match='no image can be exported .*4 rej'):
        export(ledger, tmp_path / 'out')
    for number in (1, 2, 3, 5):
        review(ledger, number, 'none')
    for photo in (tmp_path / 'photos').iterdir():
        photo.unlink()
    with pytest.raises(ValueError, match='none of the 4 .* does not exist'):
        export(ledger, tmp_path / 'out')
    assert not list(tmp_path.glob('*out*'))


@pytest.mark.parametrize(
    'settings',
    [
        dict(layouts=['yolo']),
        dict(layouts=[]),
        dict(agree='most'),
        dict(images='move'),
        dict(questions=['']),
        dict(format='llava'),
    ],
)
def test_wrong_settings_are_refused(settings):
    with pytest.raises(ValidationError):
        ExportSettings(**settings)


def _killed_at(number, out, started):
    """Export, and stop within the write of a file."""
    written = 0

    def write_half(path, data):
        nonlocal written
        if written == number:
            path.write_bytes(data[: len(data) // 2])
            started.set()
            time.sleep(600)
        write_file(path, data)
        written += 1

    for module in (export_images, export_layouts, datasheet):
        module.write_file = write_half
    with Ledger(out.parent / 'ledger.sqlite') as opened:
        export(opened, out)


@pytest.mark.parametrize('number', [0, 4, 6])
def test_a_killed_export_leaves_no_folder(tmp_path, number):
    make_ledger(tmp_path).close()
    out = tmp_path / 'out'
    context = multiprocessing.get_context('fork')
    started = context.Event()
    process = context.Process(target=_killed_at, args=(number, out, started))
    process.start()
    assert started.wait(300)
    process.kill()
    process.join()
    assert not out.exists() and len(list(tmp_path.glob('.out*.part'))) == 1
    with Ledger(tmp_path / 'ledger.sqlite') as opened:
        export(opened, out)
        export(opened, tmp_path / 'whole')
    assert contents(out) == contents(tmp_path / 'whole')
    assert not list(tmp_path.glob('.*.part'))


def _killed_before_the_new_name(out):
    """Replace an export; die before the new one gets its name."""
    rename = os.replace

    def replace(source, target):
        if Path(target) == out:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, target)

    os.replace = replace
    with Ledger(out.parent / 'ledger.sqlite') as opened:
        export(opened, out, overwrite=True)


def test_a_kill_between_two_renames_loses_nothing(ledger, tmp_path):
    out = tmp_path / 'out'
    export(ledger, out)
    before = contents(out)
    review(ledger, 1, 'accept')
    process = multiprocessing.get_context('fork').Process(
        target=_killed_before_the_new_name, args=(out,)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL and not out.exists()
    with pytest.raises(FileExistsError, match='not empty'):
        export(ledger, out)
    assert contents(out) == before
    export(ledger, out, overwrite=True)
    assert list(captions(out)) == ['1']
    assert not list(tmp_path.glob('.out*'))


@pytest.mark.parametrize('overwrite', [False, True])
@pytest.mark.parametrize('number', [0, 4, 6])
def test_a_full_disk_leaves_what_there_was(
    ledger, tmp_path, monkeypatch, overwrite, number
):
    out = tmp_path / 'out'
    if overwrite:
        export(ledger, out)
    before = contents(out)
    written = 0

    def fill_disk(path, data):
        nonlocal written
        if written == number:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_file(path, data)
        written += 1

    for module in (export_images, export_layouts, datasheet):
        monkeypatch.setattr(module, 'write_file', fill_disk)
    with pytest.raises(OSError, match='No space left on device') as caught:
        export(ledger, out, overwrite)
    assert Path(caught.value.filename).parent == tmp_path
    assert contents(out) == before
    assert not list(tmp_path.glob('.out*'))
