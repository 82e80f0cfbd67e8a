# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The names and values of the metrics for Prometheus."""

import pytest

pytest.importorskip('prometheus_client', reason='needs minigpt4[serve]')

from prometheus_client.parser import text_string_to_metric_families

from minigpt4.serving.http.metrics import ServerMetrics


def test_exposition_has_all_metrics():
    metrics = ServerMetrics()
    metrics.requests.labels(200).inc()
    metrics.first_token.observe(0.2)
    text = metrics.exposition(running=3, waiting=4).decode()
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    expected = {
        ('minigpt4_requests_total', '200'): 1,
        ('minigpt4_tokens_total', 'prompt'): 0,
        ('minigpt4_tokens_total', 'cached'): 0,
        ('minigpt4_tokens_total', 'completion'): 0,
        ('minigpt4_images_total',): 0,
        ('minigpt4_running',): 3,
        ('minigpt4_waiting',): 4,
        ('minigpt4_first_token_seconds_bucket', '0.1'): 0,
        ('minigpt4_first_token_seconds_bucket', '0.25'): 1,
        ('minigpt4_first_token_seconds_count',): 1,
        ('minigpt4_answer_seconds_bucket', '+Inf'): 0,
        ('minigpt4_answer_seconds_count',): 0,
    }
    assert expected.items() <= samples.items()


def test_two_servers_have_separate_metrics():
    first, second = ServerMetrics(), ServerMetrics()
    first.images.inc(5)
    assert 'minigpt4_images_total 5.0' in first.exposition(0, 0).decode()
    assert 'minigpt4_images_total 0.0' in second.exposition(0, 0).decode()
