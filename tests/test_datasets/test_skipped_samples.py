# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Samples that cannot be used are skipped, counted and logged."""

import pytest

from minigpt4.datasets.skipped_samples import (
    MAX_LOGGED,
    ErrorCounter,
    SkippingPipeline,
    log_line,
)
from minigpt4.utils.sample_errors import CAPTION, SampleError


def double(record):
    return {**record, 'value': record['value'] * 2}


def fail(record):
    raise SampleError(f'value {record["value"]} is odd.', record['reason'])


def test_pipeline_returns_the_output_of_the_last_transform():
    pipeline = SkippingPipeline([double, double])
    assert pipeline.run('a', lambda: dict(value=1)) == dict(value=4)
    assert pipeline.num_skipped == 0 and pipeline.totals() == {}


def test_pipeline_skips_and_counts_by_reason(log):
    pipeline = SkippingPipeline([fail])
    for reason in (CAPTION, CAPTION, 'unknown reason'):
        record = dict(value=1, reason=reason)
        assert pipeline.run('record 7', lambda r=record: r) is None
    assert pipeline.num_skipped == 3
    assert pipeline.totals() == {
        'sample: caption cannot be used': 2,
        'sample: other': 1,
    }
    assert log == ['skipped record 7: value 1 is odd.'] * 3


def test_pipeline_raises_other_errors():
    with pytest.raises(KeyError):
        SkippingPipeline([double]).run('a', dict)


def test_counter_logs_the_first_errors_and_each_thousandth(log):
    counter = ErrorCounter(('a', 'b'))
    for number in range(2000):
        counter.add('a', f'error {number}')
    counter.add('b')
    assert counter.totals() == {'a': 2000, 'b': 1}
    assert log[:MAX_LOGGED] == [f'error {i}' for i in range(MAX_LOGGED)]
    assert [line[:5] for line in log[MAX_LOGGED:]] == [
        '20 er',
        '1,000',
        '2,000',
    ]


def test_log_line_is_printable_and_short():
    assert log_line('a\nb') == r'a\nb'
    assert log_line('x' * 1000) == 'x' * 600 + ' ...'
