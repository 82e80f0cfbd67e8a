# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The datasheet has sources, models, prompts, counts and limits."""

import hashlib
import json

import pytest
from tests import curated_ledger
from tests.curated_ledger import make_ledger, review

from minigpt4.curation.export import ExportSettings, export_curation
from minigpt4.curation.pipeline import plan


@pytest.fixture
def export(tmp_path):
    with make_ledger(tmp_path) as ledger:
        review(ledger, 1, 'accept', 'Ann Example')
        review(ledger, 1, 'accept', 'bob')
        review(ledger, 2, 'edit', 'bob', text='A | red\nsquare.')
        review(ledger, 3, 'reject', 'bob')

        def run(**settings):
            out = tmp_path / 'out'
            planned = plan(ledger, curated_ledger.steps())
            settings = ExportSettings(**settings)
            export_curation(ledger, planned, settings, out, True)
            facts = json.loads((out / 'datasheet.json').read_text('utf-8'))
            return out, facts, (out / 'DATASHEET.md').read_text('utf-8')

        yield run


def test_the_facts(export):
    out, facts, sheet = export(title='My | set', purpose='Tests.')
    assert facts['images_in_ledger'] == 6
    counts = facts['counts']
    assert counts['exported'] == 2 and counts['not reviewed'] == 1
    assert counts['exported, edited in review'] == 1
    assert counts['dropped'] == counts['no result'] == 1
    data = (out / 'filter_cap.json').read_bytes()
    assert facts['files']['filter_cap.json'] == dict(
        records=2, sha256=hashlib.sha256(data).hexdigest()
    )
    assert facts['sources'][0] == dict(
        source='camera', licence='CC0', images=3
    )
    assert [s['name'] for s in facts['steps']] == [
        *('describe', 'continue', 'repair', 'rules')
    ]
    assert facts['steps'][0]['settings']['prompt'] == 'Describe it.'
    assert facts['dropped_by_rule'] == dict(apology=1)
    assert facts['flags'] == dict(number=1)
    assert facts['costs']['repair']['cost_usd'] == 0.75
    assert facts['reviews']['disagreements'] == 0
    assert facts['limits']
    for part in ('# My \\| set', 'Tests.', 'Describe it.', 'CC0', 'apology'):
        assert part in sheet
    assert '2 persons reviewed' in sheet and 'Not stated.' in sheet


def test_reviewers_are_named_on_request_only(export):
    out, facts, sheet = export()
    everything = ''.join(path.read_text('utf-8') for path in out.glob('*.*'))
    assert 'Ann Example' not in everything
    assert facts['reviews']['reviewers'] == 2
    _, facts, sheet = export(name_reviewers=True)
    assert facts['reviews']['by_reviewer'] == {'Ann Example': 1, 'bob': 3}
    assert 'Ann Example' in sheet
