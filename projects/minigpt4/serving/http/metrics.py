# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Counters of the server for Prometheus."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

CONTENT_TYPE = 'text/plain; version=0.0.4'
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class ServerMetrics:
    """Counters of one server, in a registry of its own.

    Attributes:
        requests: Chat requests by ``status`` (499 if the client
            disconnected).
        tokens: Tokens by ``kind``: ``prompt``, ``cached`` (of the prompt,
            not computed again), ``completion``.
        images: Images of chat requests.
        first_token: Seconds from a request to the first text of its answer.
        answer: Seconds from a request to the end of its answer.
    """

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            'minigpt4_requests',
            'Chat requests by status; 499: the client disconnected.',
            ['status'],
            registry=registry,
        )
        self.tokens = Counter(
            'minigpt4_tokens',
            'Tokens of prompts (images included), cached ones of these, and '
            'of answers.',
            ['kind'],
            registry=registry,
        )
        self.images = Counter(
            'minigpt4_images', 'Images of chat requests.', registry=registry
        )
        self._running = Gauge(
            'minigpt4_running', 'Requests that run.', registry=registry
        )
        self._waiting = Gauge(
            'minigpt4_waiting', 'Requests that wait.', registry=registry
        )
        self.first_token = Histogram(
            'minigpt4_first_token_seconds',
            'From a request to the first text of its answer.',
            registry=registry,
            buckets=_SECONDS,
        )
        self.answer = Histogram(
            'minigpt4_answer_seconds',
            'From a request to the end of its answer.',
            registry=registry,
            buckets=_SECONDS,
        )
        for kind in ('prompt', 'cached', 'completion'):
            self.tokens.labels(kind)  # exported as 0 before the first request

    def exposition(self, running: int, waiting: int) -> bytes:
        """Write all metrics in the text format of Prometheus.

        Args:
            running: Requests that run.
            waiting: Requests that wait.
        """
        self._running.set(running)
        self._waiting.set(waiting)
        return generate_latest(self._registry)
