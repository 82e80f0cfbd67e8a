# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The ledger: results, claims of several processes, reviews."""

import sqlite3
import subprocess
import sys
import threading

import pytest

from minigpt4.curation.ledger import Ledger, Result
from minigpt4.curation.reviews import Review, text_digest
from minigpt4.utils.sqlite_errors import DatabaseError


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / 'ledger.sqlite') as opened:
        opened.add_images((f'd{i}', f'/i/{i}.jpg', {}) for i in range(6))
        yield opened


def ok(image, text='text', **details):
    return Result(image, 'ok', text, details)


def ids(claimed):
    return [image.id for image, _ in claimed]


def test_a_step_gets_the_results_of_the_step_before(ledger):
    first = ledger.add_step('a', 'describe', {})
    second = ledger.add_step('b', 'rules', dict(length=3))
    claimed = ledger.claim(first, None, 10)
    assert ids(claimed) == [1, 2, 3, 4, 5, 6]
    assert all(result is None for _, result in claimed)
    ledger.add_results(
        first,
        [
            ok(1, 'one', tokens=3),
            Result(2, 'dropped', '', dict(rule='x')),
            Result(3, 'failed', 'no model', {}),
            ok(4, 'four'),
        ],
    )
    claimed = ledger.claim(second, first, 10)
    assert ids(claimed) == [1, 4]
    assert claimed[0][1] == ok(1, 'one', tokens=3)
    assert ledger.counts(first) == dict(ok=2, dropped=1, failed=1)
    (failure,) = ledger.failures(first)
    assert failure.image == 3 and failure.text == 'no model'
    # the failed one again; 5 and 6 are still claimed
    assert ids(ledger.claim(first, None, 10)) == [3]
    ledger.add_results(first, [ok(3)])
    assert ledger.failures(first) == []


def test_the_first_result_counts(ledger):
    step = ledger.add_step('a', 'describe', {})
    ledger.add_results(step, [ok(1, 'first')])
    ledger.add_results(step, [ok(1, 'second'), Result(1, 'failed', 'x', {})])
    assert [r.text for r in ledger.results(step)] == ['first']
    assert ledger.counts(step) == dict(ok=1, dropped=0, failed=0)


def test_claims_of_another_process_are_respected_until_it_ends(ledger):
    step = ledger.add_step('a', 'describe', {})
    code = (
        'import sys; from minigpt4.curation.ledger import Ledger\n'
        'found = Ledger(sys.argv[1]).claim(1, None, 4)\n'
        'print([i.id for i, _ in found], flush=True); sys.stdin.read()'
    )
    other = subprocess.Popen(
        [sys.executable, '-c', code, ledger.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout.readline() == '[1, 2, 3, 4]\n'
    assert ids(ledger.claim(step, None, 10)) == [5, 6]
    other.kill()
    other.wait()
    assert ids(ledger.claim(step, None, 10)) == [1, 2, 3, 4]


def test_reviews_belong_to_a_text(ledger):
    digest = text_digest('a cat')
    ledger.reviews.add(Review(1, digest, 'ann', 'accept', 'a cat'))
    ledger.reviews.add(Review(1, digest, 'bob', 'reject', ''))
    ledger.reviews.add(Review(1, digest, 'ann', 'edit', 'a black cat'))
    assert [(r.reviewer, r.text) for r in ledger.reviews.latest(1)] == [
        ('bob', ''),
        ('ann', 'a black cat'),
    ]
    ledger.reviews.add(Review(1, digest, 'bob', 'none', ''))
    assert [r.reviewer for r in ledger.reviews.latest()] == ['ann']
    with pytest.raises(ValueError, match="decision is 'maybe'"):
        ledger.reviews.add(Review(1, digest, 'ann', 'maybe', ''))


def test_images_are_known_by_their_digest(ledger):
    assert ledger.add_images([('d1', '/new/1.jpg', dict(source='x'))]) == 0
    assert ledger.num_images == 6
    (image,) = ledger.images([2])
    assert image.path == '/new/1.jpg' and image.details == dict(source='x')
    # added again with other notes: what is known otherwise is kept
    assert ledger.add_images([('d1', '/new/1.jpg', dict(licence='y'))]) == 0
    (image,) = ledger.images([2])
    assert image.details == dict(source='x', licence='y')
    name = b'/i/\xff.jpg'.decode(errors='surrogateescape')
    assert ledger.add_images([('d9', name, {})]) == 1
    assert ledger.images()[-1].path == name


def test_threads_share_a_ledger(ledger):
    step = ledger.add_step('a', 'describe', {})
    threads = [
        threading.Thread(target=lambda i=i: ledger.add_results(step, [ok(i)]))
        for i in range(1, 7)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.counts(step)['ok'] == 6


def test_other_files_are_refused(tmp_path):
    other = tmp_path / 'other.sqlite'
    with sqlite3.connect(other) as database:
        database.execute('CREATE TABLE t (x)')
    with pytest.raises(DatabaseError, match='another program'):
        Ledger(other)
    text = tmp_path / 'text.sqlite'
    text.write_text('no database at all, but a text\n' * 20)
    with pytest.raises(DatabaseError, match='damaged or no'):
        Ledger(text)
