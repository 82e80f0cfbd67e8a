# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The tables of the report state what the ledger has."""

import io

from rich.console import Console

from minigpt4.curation.report_tables import funnel_rows, print_report
from minigpt4.curation.selection import Selection
from minigpt4.curation.statistics import Lengths, Numbers, StepNumbers

NOTHING = Selection([], {'dropped': 2}, False, 0, 0)


def test_the_funnel_is_next_to_the_paper():
    numbers = Numbers(num_images=8)
    numbers.steps = [StepNumbers('describe', {}, 8, 6, 1, 1, None)]
    assert funnel_rows(numbers, NOTHING) == [
        ('images', '8', '100.0 %', '5,000'),
        ('after describe', '6', '75.0 %', 'not stated'),
        ('to export, not reviewed', '0', '0.0 %', 'about 3,500 (70 %)'),
    ]
    assert funnel_rows(Numbers(), NOTHING)[0][2] == ''


def test_the_terminal_has_the_tables_with_rows():
    numbers = Numbers(num_images=8, draft_lengths=Lengths(8, 1, 2, 2.5, 9))
    numbers.costs = dict(repair=dict(cost_usd=0.5))
    stream = io.StringIO()
    print_report(Console(file=stream, width=100), numbers, NOTHING)
    text = stream.getvalue()
    assert 'Funnel' in text and 'dropped by a rule' in text
    assert '0.5000' in text and 'Failed' not in text and 'Review' not in text
