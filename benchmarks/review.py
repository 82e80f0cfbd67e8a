# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Milliseconds of the review page's server: one decision, and its start.

A decision is one request over HTTP's application interface: it stores the
decision on disk and returns the next text with its history and word diff.
The start reads the order of all texts from the ledger. Usage:
``python benchmarks/review.py [NUMBER OF TEXTS ...]`` prints one JSON line for
each number.
"""

import asyncio
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from minigpt4.curation.ledger import Ledger, Result
from minigpt4.curation.pipeline import plan
from minigpt4.curation.review_queue import ReviewQueue
from minigpt4.serving.review.app import review_app

DECISIONS = 50
STEPS = ('describe', 'continue', 'repair', 'rules')
SENTENCE = 'A red car is parked on a wide street next to a tall tree. '
_PART = 10_000


class NamedStep:
    settings: dict = {}

    def __init__(self, name: str) -> None:
        self.name = name


def fill(ledger: Ledger, number: int) -> dict[str, int]:
    """Add texts; every tenth has a flag of the guard.

    They have 100 words; above 100,000 texts 40, because only the number of
    texts matters for the start, and the file would have gigabytes.
    """
    sentences = 6 if number <= 100_000 else 1
    planned = plan(ledger, [NamedStep(name) for name in STEPS])
    flags = dict(flags=[dict(reason='object', text='The repair adds "cat".')])
    for start in range(1, number + 1, _PART):
        ids = range(start, min(start + _PART, number + 1))
        ledger.add_images((f'{i:064x}', f'/images/{i}.jpg', {}) for i in ids)
        for place, step in enumerate(planned):
            text = SENTENCE * (sentences + place)
            ledger.add_results(
                step.number,
                [
                    Result(
                        i,
                        'ok',
                        f'Image {i}. {text}',
                        flags if place == 2 and i % 10 == 0 else {},
                    )
                    for i in ids
                ],
            )
    return {step.step.name: step.number for step in planned}


async def call(app, method: str, path: str, query: str, body: bytes) -> dict:
    """Send one request to an application; its JSON."""
    sent = bytearray()
    status = 0

    async def receive() -> dict:
        return dict(type='http.request', body=body, more_body=False)

    async def send(message: dict) -> None:
        nonlocal status
        status = message.get('status', status)
        sent.extend(message.get('body', b''))

    headers = [(b'host', b'localhost'), (b'content-type', b'application/json')]
    scope = dict(
        type='http',
        asgi=dict(version='3.0'),
        http_version='1.1',
        method=method,
        scheme='http',
        path=path,
        raw_path=path.encode(),
        query_string=query.encode(),
        headers=headers,
        client=('127.0.0.1', 1),
        server=('127.0.0.1', 80),
        root_path='',
    )
    await app(scope, receive, send)
    assert status == 200, bytes(sent)
    return json.loads(sent)


async def decide(app) -> list[float]:
    """Make decisions; seconds of each."""
    times = []
    content = await call(app, 'GET', '/api/item', 'reviewer=ann', b'')
    for _ in range(DECISIONS):
        item = content['item']
        decision = dict(
            image=item['image'],
            reviewed=item['reviewed'],
            reviewer='ann',
            decision='accept',
            go='next',
        )
        start = time.perf_counter()
        body = json.dumps(decision).encode()
        content = await call(app, 'POST', '/api/review', '', body)
        times.append(time.perf_counter() - start)
    return times


def measure(number: int) -> dict:
    """Measure with a number of texts."""
    with tempfile.TemporaryDirectory() as folder:
        with Ledger(Path(folder) / 'ledger.sqlite') as ledger:
            steps = fill(ledger, number)
            start, cpu = time.perf_counter(), time.process_time()
            queue = ReviewQueue(ledger, steps)
            opened = time.perf_counter() - start
            opened_cpu = time.process_time() - cpu
            cpu = time.process_time()
            times = sorted(asyncio.run(decide(review_app(queue))))
            cpu = time.process_time() - cpu
    return dict(
        texts=number,
        open_s=round(opened, 3),
        open_cpu_s=round(opened_cpu, 3),
        decision_median_ms=round(1000 * statistics.median(times), 1),
        decision_p95_ms=round(1000 * times[int(0.95 * len(times))], 1),
        decision_cpu_ms=round(1000 * cpu / DECISIONS, 1),
    )


if __name__ == '__main__':
    for argument in sys.argv[1:] or ['10000']:
        print(json.dumps(measure(int(argument))), flush=True)
