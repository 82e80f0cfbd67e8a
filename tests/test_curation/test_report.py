# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The report shows examples of each reason and runs nothing."""

import re

from tests import curated_ledger
from tests.curated_ledger import make_ledger, review

from minigpt4.curation.history import histories
from minigpt4.curation.pipeline import plan
from minigpt4.curation.report import write_report
from minigpt4.curation.selection import select_images
from minigpt4.curation.statistics import collect_numbers


def page(tmp_path, title='Report'):
    with make_ledger(tmp_path) as ledger:
        review(ledger, 1, 'edit', '<b>ann', text='Mine.')
        planned = plan(ledger, curated_ledger.steps())
        numbers = collect_numbers(ledger, planned, histories(ledger, planned))
        selection = select_images(histories(ledger, planned))
    path = tmp_path / 'report.html'
    write_report(path, numbers, selection, title)
    return path.read_text('utf-8')


def test_the_page_has_every_part(tmp_path):
    found = page(tmp_path)
    for text in (
        *('about 3,500 (70 %)', 'apology: 1', 'It apologises.'),
        *('the image is damaged.', 'number: 1', 'After: ', 'CC0', '0.7500'),
        'to export, after review',
    ):
        assert text in found
    # examples: one drop, one flag, two repairs
    assert len(re.findall('src="data:image/jpeg;base64,', found)) == 4


def test_the_page_runs_nothing_of_the_ledger(tmp_path):
    found = page(tmp_path, '<script>alert(1)</script>')
    assert '<script' not in found and '&lt;b&gt;ann' in found
    assert not re.search('(src|href)="?http', found)


def test_an_image_that_is_missing_has_no_thumbnail(tmp_path, monkeypatch):
    real = curated_ledger.write_images

    def without_files(folder):
        rows = real(folder)
        for path in folder.iterdir():
            path.unlink()
        return rows

    monkeypatch.setattr(curated_ledger, 'write_images', without_files)
    found = page(tmp_path)
    assert found.count('class="none"') == 4 and 'data:image' not in found


def test_a_file_that_was_replaced_has_no_thumbnail(tmp_path, monkeypatch):
    real = curated_ledger.write_images

    def replaced(folder):
        rows = real(folder)
        paths = sorted(folder.iterdir())
        for path in paths:
            path.write_bytes(paths[0].read_bytes() + b'new')
        return rows

    monkeypatch.setattr(curated_ledger, 'write_images', replaced)
    assert page(tmp_path).count('class="none"') == 4
