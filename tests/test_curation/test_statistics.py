# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The numbers of a curation are those of its ledger."""

import pytest
from tests import curated_ledger
from tests.curated_ledger import make_ledger, review

from minigpt4.curation.history import histories
from minigpt4.curation.pipeline import plan
from minigpt4.curation.statistics import collect_numbers, measure_lengths


@pytest.fixture
def ledger(tmp_path):
    with make_ledger(tmp_path) as opened:
        yield opened


def numbers(ledger):
    planned = plan(ledger, curated_ledger.steps())
    return collect_numbers(ledger, planned, histories(ledger, planned))


def test_the_funnel(ledger):
    found = numbers(ledger)
    assert found.num_images == 6
    assert [
        (s.name, s.entered, s.ok, s.dropped, s.failed, s.missing)
        for s in found.steps
    ] == [
        ('describe', 6, 5, 0, 1, 0),
        ('continue', 5, 5, 0, 0, 0),
        ('repair', 5, 5, 0, 0, 0),
        ('rules', 5, 4, 1, 0, 0),
    ]
    first, last = found.steps[0].days
    assert len(first) == 10 and first <= last
    ledger.add_images([('new', '/new.jpg', {})])
    assert numbers(ledger).steps[0].missing == 1


def test_reasons_have_examples(ledger):
    found = numbers(ledger)
    (drop,) = found.drops
    assert (drop.name, drop.number) == ('apology', 1)
    assert drop.examples[0].image.id == 4
    assert drop.examples[0].note == 'It apologises.'
    assert drop.examples[0].text == curated_ledger.SORRY
    ((step, failure),) = found.failures
    assert (step, failure.name) == ('describe', 'the image is damaged.')
    (flag,) = found.flags
    assert (flag.name, flag.examples[0].note) == ('number', 'It adds 2.')


def test_repairs_costs_and_lengths(ledger):
    found = numbers(ledger)
    assert (found.repaired, found.changed) == (5, 2)
    assert found.repairs[0].text.endswith('It it.')
    assert found.repairs[0].after == curated_ledger.GOOD.format(2)
    assert found.costs['repair'] == dict(
        cost_usd=0.75, prompt_tokens=100, completion_tokens=20
    )
    assert found.costs['describe']['seconds'] == 2.5
    assert (found.continued, found.unfinished) == (1, 0)
    assert found.draft_lengths.texts == 5 and found.final_lengths.texts == 4
    assert found.draft_lengths.maximum == 14
    assert found.sources == [('camera', 'CC0', 3), (None, None, 3)]


def test_reviews(ledger):
    review(ledger, 1, 'accept')
    review(ledger, 1, 'reject', 'bob')
    review(ledger, 2, 'edit', text='Mine.')
    review(ledger, 3, 'accept', of='An older text.')
    found = numbers(ledger).reviewing
    assert found.images == 2 and found.twice == found.disagreements == 1
    assert found.decisions == dict(accept=1, edit=1, reject=1)
    assert found.reviewers == dict(ann=2, bob=1)
    assert found.outdated == 1
    (pair,) = found.agreements
    assert pair.reviewers == ('ann', 'bob') and pair.both == 1
    assert pair.kappa == 0


def test_lengths_of_no_text():
    assert measure_lengths([]) is None
    assert measure_lengths(['a b', 'a b c d']).mean == 3
