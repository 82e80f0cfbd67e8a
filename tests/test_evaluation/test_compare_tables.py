# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Lines and tables of a comparison, with numbers that are known."""

import pytest

from minigpt4.evaluation.compare import compare_results
from minigpt4.evaluation.compare_tables import good_line, score_rows
from minigpt4.evaluation.compared_folder import read_results


@pytest.mark.parametrize(
    ('number', 'p'),
    [
        # 2 / 2**14 = 0.00012, 2 / 2**15 = 0.00006
        (14, '0.0001'),
        (15, '< 0.0001'),
        (2, '0.5000'),
    ],
)
def test_small_p_values_are_below_a_limit(pope_folder, number, p):
    questions = [(i, str(i), 'Is there a dog?', 'yes') for i in range(number)]
    first = pope_folder('1', [(*row, 'no') for row in questions])
    second = pope_folder('2', [(*row, 'yes') for row in questions])
    found = compare_results(
        read_results(first), read_results(second), resamples=20
    )
    assert good_line(found) == (
        f'right: 0 in both, 0 only in 1, {number} only in 2, 0 in neither; '
        f'McNemar p {p}'
    )


def test_shares_are_percentages(pope_folder):
    questions = [(i, str(i), 'Is there a dog?', 'yes') for i in range(4)]
    first = pope_folder('1', [(*row, 'yes') for row in questions])
    answers = ('yes', 'yes', 'yes', 'no')
    second = pope_folder(
        '2', [(*q, a) for q, a in zip(questions, answers, strict=True)]
    )
    rows = score_rows(
        compare_results(read_results(first), read_results(second))
    )
    label, one, two, difference, interval, p = rows[0]
    assert (label, one, two) == ('accuracy', '100.00 %', '75.00 %')
    # the image with another answer is drawn 3 times or more in 5 % of the
    # draws, and 4 times in 0.4 %; swapping it gives a difference as large
    assert (difference, interval, p) == (
        '-25.00',
        '-75.00 to +0.00',
        '1.0000',
    )
