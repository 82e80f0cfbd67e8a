# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The tables of a reproduction."""

from minigpt4.reproduction.nano import NANO
from minigpt4.reproduction.plan import Plan
from minigpt4.reproduction.setups import with_needed
from minigpt4.reproduction.tables import all_tables, markdown


def scores(**changed):
    found = dict.fromkeys(NANO.columns, 0.5)
    return {**found, **changed}


def all_of(found, trainings, seeds=(1, 2)):
    chosen = with_needed(NANO.trainings, trainings)
    plan = Plan(NANO._replace(trainings=chosen), (1,))
    return all_tables(plan.setup, found, seeds)


def tables(found, trainings, seeds=(1, 2)):
    return {table.title: table for table in all_of(found, trainings, seeds)}


FOUND = {
    ('stage1', 1): scores(describe_failures=0.3, poem=0.1),
    ('stage1', 2): scores(describe_failures=0.2, poem=0.2),
    ('stage2', 1): scores(describe_failures=0.02, poem=0.9),
    ('stage2', 2): scores(describe_failures=0.01, poem=0.9),
    ('stage2_100_iterations', 1): scores(describe_words=21.26),
}
TRAININGS = ['stage1', 'stage2', 'stage2_100_iterations']


def test_means_are_over_the_seeds_that_ran():
    rows = {row[0]: row for row in tables(FOUND, TRAININGS)['Scores'].rows}
    failures = 2 + list(NANO.columns).index('describe_failures')
    assert rows['stage1'][1] == '2'
    assert rows['stage1'][failures] == '0.250'
    assert rows['stage2'][failures] == '0.015'
    assert rows['stage2_100_iterations'][1] == '1'
    assert rows['stage2_100_iterations'][-1] == '21.3'


def test_goals_are_met_or_missed():
    rows = tables(FOUND, TRAININGS)['Goals'].rows
    results = {(row[0], row[1]): row[-1] for row in rows}
    assert results['stage1', 'descriptions broken'] == 'met'
    assert results['stage2', 'descriptions broken'] == 'met'
    assert results['stage2', 'poems right'] == 'met'
    assert results['stage2', 'shapes found'] == 'missed'


def test_goals_say_why_there_is_no_mean():
    found = {key: dict(row) for key, row in FOUND.items()}
    for seed in (1, 2):
        found['stage2', seed]['chair_i'] = None
        del found['stage2', seed]['poem']
        del found['stage1', seed]
    rows = tables(found, TRAININGS)['Goals'].rows
    results = {(row[0], row[1]): row[-1] for row in rows}
    assert results['stage2', 'shapes invented'] == 'not defined'
    assert results['stage2', 'poems right'] == 'not measured'
    assert results['stage2', 'shapes found'] == 'missed'
    assert results['stage1', 'poems broken'] == 'not measured'
    rows = tables(found, ['stage1'])['Goals'].rows
    assert {row[0] for row in rows} == {'stage1'}


def test_claims_have_the_difference_of_each_seed():
    rows = tables(FOUND, TRAININGS)['Claims of the paper'].rows
    row = next(row for row in rows if row[2] == 'poems right')
    assert row[3] == '0.150 to 0.900'
    # 0.8 and 0.7: 0.75 with 12.706 * 0.0707 / sqrt(2)
    assert row[4] == '0.750 (0.115 to 1.385)'
    assert row[5] == 'agrees'


def test_notes_say_how_claims_and_goals_are_judged():
    found = tables(FOUND, TRAININGS)
    claims = found['Claims of the paper'].note
    assert 'over training seeds only, with one data set and one LLM' in claims
    assert 'at least 0.01 to each side' in claims
    assert 'if both means are below 0.05' in claims
    assert 'or above 0.95' in claims
    assert 'The mean alone decides' in found['Goals'].note


def test_lengths_are_in_their_order_and_variance_needs_two_seeds():
    found = tables(FOUND, TRAININGS)
    assert [row[0] for row in found['Length of stage 2'].rows] == [
        '100',
        '400',
    ]
    assert 'Descriptions in stage 2' not in found
    variance = found['Variance over the seeds'].rows
    assert {row[0] for row in variance} == {'stage1', 'stage2'}
    row = next(r for r in variance if r[:2] == ('stage1', 'poems right'))
    assert row[2] == '0.100, 0.200'
    assert row[4] == '0.071'


def test_one_seed_has_no_variance():
    found = tables({('stage1', 1): scores()}, ['stage1'], (1,))
    assert set(found) == {'Goals', 'Scores'}


def test_markdown_has_a_line_for_each_row():
    found = all_of(FOUND, TRAININGS)
    lines = list(markdown(found))
    assert sum(line.startswith('| ') for line in lines) == sum(
        1 + len(table.rows) for table in found
    )
    assert lines[0] == '## Claims of the paper'


def test_an_absent_score_has_an_empty_cell():
    found = {('stage1', 1): {'recall': 0.5}}
    rows = tables(found, ['stage1'], (1,))['Scores'].rows
    assert rows[0][:4] == ('stage1', '1', '0.500', '')
