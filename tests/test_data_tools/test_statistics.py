# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
import pytest

from minigpt4.data_tools.statistics import (
    Numbers,
    is_near_empty,
    main_script,
)


def collected(values):
    numbers = Numbers()
    for value in values:
        numbers.add(value)
    return numbers


def test_summary_and_share():
    numbers = collected(range(1, 101))
    summary = numbers.summary()
    assert (summary['min'], summary['max']) == (1, 100)
    assert summary['mean'] == 50.5
    assert summary['p95'] == pytest.approx(95, abs=1)
    assert numbers.share_above(90) == 0.1
    assert collected([]).summary() == dict(count=0)
    assert collected([]).share_above(1) == 0


@pytest.mark.parametrize(
    'values',
    [
        [3],
        [0, 0, 0],
        list(range(500)),
        [0.5, 0.51, 0.7],
        [*range(100), 100_000],
        [2.5, 2.5],
    ],
)
def test_a_histogram_counts_every_number_once(values):
    bars = collected(values).histogram()
    assert sum(bar.number for bar in bars) == len(values)
    assert len(bars) <= 32
    assert bars[0].low == min(values) and bars[-1].high >= max(values)
    for bar, after in zip(bars, bars[1:]):
        assert bar.high == pytest.approx(after.low)


def test_scripts_and_empty_texts():
    assert main_script('a dog, קט') == 'Latin'
    assert main_script('قطة على السجادة') == 'Arabic'
    assert main_script('一只狗') == 'CJK'
    assert main_script('12 !') == 'none'
    assert is_near_empty(' . a') and is_near_empty('')
    assert not is_near_empty('cat')
