# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""What the server counts, in the text format of Prometheus."""

import bisect
from collections import Counter
from collections.abc import Iterator

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Histogram:
    """How often a time fell below each of some bounds.

    Args:
        bounds: In seconds, ascending.
    """

    def __init__(self, bounds: tuple[float, ...] = _SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self.counts[bisect.bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds

    def lines(self, name: str) -> Iterator[str]:
        """In Prometheus' format."""
        total = 0
        for bound, count in zip((*self.bounds, '+Inf'), self.counts):
            total += count
            yield f'{name}_bucket{{le="{bound}"}} {total}'
        yield f'{name}_sum {self.sum:.6f}'
        yield f'{name}_count {total}'


class ServerMetrics:
    """Counters of one server; used from its event loop alone.

    Attributes:
        requests: Requests to answer, by the status they ended with (499
            where the client left).
        tokens: By kind: ``prompt``, ``cached`` (of the prompt, not computed
            again), ``completion``.
        images: Images that were asked about.
        first_token: Seconds from a request to the first text of its answer.
        answer: Seconds from a request to the end of its answer.
    """

    def __init__(self) -> None:
        self.requests: Counter[int] = Counter()
        self.tokens: Counter[str] = Counter(prompt=0, cached=0, completion=0)
        self.images = 0
        self.first_token = Histogram()
        self.answer = Histogram()

    def text(self, running: int, waiting: int) -> str:
        """All of it.

        Args:
            running: Answers that are being written.
            waiting: Requests that wait for their turn.
        """
        lines: list[str] = []

        def add(name: str, kind: str, help_: str, *values: str) -> None:
            lines.append(f'# HELP minigpt4_{name} {help_}')
            lines.append(f'# TYPE minigpt4_{name} {kind}')
            lines.extend(values)

        add(
            'requests_total',
            'counter',
            'Requests to answer, by status; 499: the client left.',
            *(
                f'minigpt4_requests_total{{status="{status}"}} {count}'
                for status, count in sorted(self.requests.items())
            ),
        )
        add(
            'tokens_total',
            'counter',
            'Tokens of prompts (images included), of these cached, and of '
            'answers.',
            *(
                f'minigpt4_tokens_total{{kind="{kind}"}} {count}'
                for kind, count in self.tokens.items()
            ),
        )
        add(
            'images_total',
            'counter',
            'Images that were asked about.',
            f'minigpt4_images_total {self.images}',
        )
        add(
            'running',
            'gauge',
            'Answers that are being written.',
            f'minigpt4_running {running}',
        )
        add(
            'waiting',
            'gauge',
            'Requests that wait for their turn.',
            f'minigpt4_waiting {waiting}',
        )
        add(
            'first_token_seconds',
            'histogram',
            'From a request to the first text of its answer.',
            *self.first_token.lines('minigpt4_first_token_seconds'),
        )
        add(
            'answer_seconds',
            'histogram',
            'From a request to the end of its answer.',
            *self.answer.lines('minigpt4_answer_seconds'),
        )
        return '\n'.join(lines) + '\n'
