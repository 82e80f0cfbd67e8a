# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Decisions from CSV and JSON files."""

import csv
import json

import pytest
from tests.review_ledger import final_text, make_ledger, step_numbers

from minigpt4.curation.review_export import write_review
from minigpt4.curation.review_import import (
    FORMAT,
    import_decisions,
    read_decisions,
)
from minigpt4.curation.review_queue import ReviewQueue
from minigpt4.curation.reviews import text_digest


@pytest.fixture
def queue(tmp_path):
    with make_ledger(tmp_path, images=False) as ledger:
        yield ReviewQueue(ledger, step_numbers(ledger))


def decision(number, kind='accept', reviewer='ann', **values):
    return dict(
        image=f'{number:064x}',
        reviewed=text_digest(final_text(number)),
        reviewer=reviewer,
        decision=kind,
        **values,
    )


@pytest.fixture
def imported(queue, tmp_path):
    def run(*decisions, **settings):
        path = tmp_path / 'review.json'
        content = dict(format=FORMAT, decisions=decisions)
        path.write_text(json.dumps(content))
        return import_decisions(queue, read_decisions(path), **settings)

    return run


def stored(queue):
    return {
        (r.image, r.reviewer): (r.decision, r.text)
        for r in queue.ledger.reviews.latest()
    }


def test_a_table_is_filled_in_and_read_back(queue, tmp_path):
    path = tmp_path / 'review.csv'
    write_review(queue, list(queue), path, 'ann')
    assert path.read_bytes().startswith(b'\xef\xbb\xbf')
    with open(path, encoding='utf-8-sig', newline='') as file:
        rows = list(csv.DictReader(file))
    assert [row['file'] for row in rows][:2] == ['image4.png', 'image3.png']
    assert rows[0]['flags'].splitlines() == [
        'This image cannot be displayed: the file is missing.',
        'The repair adds "horse".',
        'The repair adds "two".',
    ]
    rows[0]['decision'] = 'Reject '
    rows[1] |= dict(decision='edit', new_text="'=A car", note='shorter')
    rows[2]['decision'] = 'accept'
    with open(path, 'w', encoding='utf-8', newline='') as file:
        writer = csv.DictWriter(file, rows[0], delimiter=';')
        writer.writeheader()
        writer.writerows(rows)
    report = import_decisions(queue, read_decisions(path))
    assert (report.stored, report.undecided) == (3, 3)
    assert not report.errors
    assert stored(queue) == {
        (4, 'ann'): ('reject', ''),
        (3, 'ann'): ('edit', '=A car'),
        (1, 'ann'): ('accept', final_text(1)),
    }
    report = import_decisions(queue, read_decisions(path))
    assert (report.stored, report.known) == (0, 3)


def test_each_wrong_record_has_its_place_and_reason(imported, queue):
    report = imported(
        decision(1),
        dict(decision(2), reviewed='0' * 64),
        dict(decision(3), image='unknown'),
        decision(3, 'maybe'),
        decision(3, 'edit'),
        decision(3, 'edit', text='a\x00b'),
        decision(3, reviewer=None),
        [],
        decision(3, 'edit', text='x' * 20_001),
    )
    assert report.stored == 1
    assert list(stored(queue)) == [(1, 'ann')]
    expected = (
        'decision 2: the text of this image has changed',
        'decision 3: the ledger has no text under review of the image',
        'decision 4: the decision is "maybe"; expected one of accept',
        'decision 5: the decision is edit, but there is no new text',
        'decision 6: the new text contains a control character',
        'decision 7: the reviewer is null; expected a name',
        'decision 8: it is not a JSON object',
        'decision 9: the new text has 20,001 characters',
    )
    assert len(report.errors) == len(expected)
    for found, start in zip(report.errors, expected):
        assert found.startswith(start)


def test_no_new_text_is_dropped(imported, queue):
    report = imported(
        decision(1, text='Mine.'),
        decision(2, 'reject', text='Mine.'),
        decision(3, '', text='Mine.'),
        dict(decision(3, None, text='Mine.'), image='unknown'),
        decision(4, text=f' {final_text(4)}\n'),
        decision(5, '', text=final_text(5)),
    )
    advice = 'write edit as the decision, or clear the new text.'
    assert report.errors == [
        f'decision 1: the decision is accept, but there is a new text; '
        f'{advice}',
        f'decision 2: the decision is reject, but there is a new text; '
        f'{advice}',
        f'decision 3: there is a new text but no decision; {advice}',
        f'decision 4: there is a new text but no decision; {advice}',
    ]
    assert (report.stored, report.undecided) == (1, 1)
    assert stored(queue) == {(4, 'ann'): ('accept', final_text(4))}


def test_an_edit_in_the_column_of_the_old_text_is_named(queue, tmp_path):
    path = tmp_path / 'review.csv'
    write_review(queue, [1, 2, 3, 4], path, 'ann')
    with open(path, encoding='utf-8-sig', newline='') as file:
        rows = list(csv.DictReader(file))
    rows[0] |= dict(decision='accept', text='Mine.')
    rows[1] |= dict(text='Mine.')
    rows[2] |= dict(decision='accept', text=f'{rows[2]["text"]}\r\n')
    rows[3] |= dict(decision='accept', text='')
    with open(path, 'w', encoding='utf-8', newline='') as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    report = import_decisions(queue, read_decisions(path))
    for place, error in zip((2, 3), report.errors, strict=True):
        assert error.startswith(f'row {place}: its column "text" was edited')
    assert set(stored(queue)) == {(3, 'ann'), (4, 'ann')}


def test_a_note_without_a_decision_is_named(imported):
    report = imported(decision(1, '', note='blurred'), decision(2, note=None))
    assert report.notes == [
        'decision 1: there is a note but no decision, so the note is not '
        'stored; write a decision too.'
    ]
    assert (report.stored, report.undecided) == (1, 1)
    assert not report.errors


def test_the_reviewer_of_the_command_fills_gaps(imported, queue):
    imported(decision(1, reviewer=None), decision(2), reviewer='ben')
    assert set(stored(queue)) == {(1, 'ben'), (2, 'ann')}


def test_conflicts_are_reported(imported, queue):
    imported(decision(1), decision(2))
    report = imported(decision(1, 'reject'), decision(2))
    assert (report.stored, report.known) == (0, 1)
    (conflict,) = report.conflicts
    assert conflict.startswith('decision 1: ann has decided "accept" in the')
    assert stored(queue)[1, 'ann'][0] == 'accept'
    report = imported(decision(1, 'reject'), replace=True)
    assert report.stored == 1 and not report.conflicts
    assert stored(queue)[1, 'ann'][0] == 'reject'
    report = imported(decision(3), decision(3, 'reject'))
    assert report.stored == 1
    assert 'another decision on this text in decision 1' in report.conflicts[0]


def test_another_reviewer_is_no_conflict(imported):
    imported(decision(1))
    report = imported(decision(1, 'reject', reviewer='ben'))
    assert (report.stored, report.disputed) == (1, 1)
    assert not report.conflicts


@pytest.mark.parametrize(
    'content, message',
    [
        (b'{"a": 1}', 'was not downloaded from a review page'),
        (b'[1]', 'label-studio import'),
        (b'{', 'is not JSON'),
        (b'{"a": 1, "a": 2}', 'has the key "a" twice'),
        (b'PK\x03\x04', 'no file of decisions .*ZIP archive; unpack it'),
        (b'<!doctype html>', 'open it'),
        (b'a,b\n1,2\n', 'has no column image, decision, new_text, reviewed'),
        (b'image,decision\n\xff\n', r'is not UTF-8 \(line 2\)'),
        (b'', 'has no column'),
        (
            b'image,decision,new_text,reviewed,new_text\n',
            'has more than one column new_text',
        ),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / 'file'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_decisions(path)


def test_a_row_with_other_cells_is_reported(queue, tmp_path):
    path = tmp_path / 'review.csv'
    path.write_text('image,decision,new_text,reviewed\na,accept\n\n"b\n')
    report = import_decisions(queue, read_decisions(path), 'ann')
    assert report.errors[0] == 'row 2: it has 2 cells; expected 4.'


def test_utf_16_of_a_spreadsheet_is_read(queue, tmp_path):
    path = tmp_path / 'review.csv'
    row = decision(1)
    text = (
        'image\tdecision\tnew_text\treviewed\r\n'
        f'{row["image"]}\tedit\tEin grünes Auto.\t{row["reviewed"]}\r\n'
    )
    path.write_bytes(text.encode('utf-16'))
    report = import_decisions(queue, read_decisions(path), 'ann')
    assert report.stored == 1 and not report.errors
    assert stored(queue)[1, 'ann'] == ('edit', 'Ein grünes Auto.')
