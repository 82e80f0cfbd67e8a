# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 serve`` with 32 concurrent clients against one client.

The server is a separate process; the clients are coroutines of this one and
write HTTP themselves, so that they need little CPU time. All request streams
about images whose features the server has cached; the prefix cache is off.
The guard: no errors, and each question gets the same text on both sides.

Times are wall-clock times: on a busy machine only the best repetitions are
meaningful.
"""

import asyncio
import base64
import contextlib
import io
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import harness

MODEL = 'minigpt-4_nano_caption'
PATH = '/v1/chat/completions'
CLIENTS = 32
REQUESTS = 96  # per repetition
QUESTIONS = (
    'Describe this image in detail.',
    'Write a poem.',
    'How many shapes are there?',
)


@dataclass
class Reply:
    """The reply to a request.

    Attributes:
        status: The HTTP status; 0 without a reply.
        body: The body.
        first: Seconds to the first text of a stream.
    """

    status: int = 0
    body: bytes = b''
    first: float = 0.0

    @property
    def text(self) -> str:
        """The text of a stream."""
        lines = self.body.decode().splitlines()
        events = [
            json.loads(line[6:])
            for line in lines
            if line.startswith('data: {')
        ]
        return ''.join(
            choice['delta'].get('content') or ''
            for event in events
            for choice in event['choices']
        )


@contextlib.contextmanager
def server(*arguments: str) -> Iterator[tuple[int, subprocess.Popen]]:
    """Run ``minigpt4 serve``; yields its port and its process."""
    command = [
        *(sys.executable, '-m', 'minigpt4_cli.main', 'serve'),
        *('--model', MODEL, '--port', '0', '--quiet', *arguments),
    ]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={
            **os.environ,
            'OMP_NUM_THREADS': '1',
            'OMP_WAIT_POLICY': 'PASSIVE',
            'HF_HUB_OFFLINE': '1',
        },
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if '/v1' in line:
                port = int(line.rpartition(':')[2].partition('/')[0])
                break
        else:
            raise RuntimeError(
                f'the server ended with {process.wait()}; run it by hand to '
                f'see the cause: {" ".join(command)}'
            )
        yield port, process
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()


def request(body: bytes, headers: str = '', path: str = PATH) -> bytes:
    """The bytes of a request."""
    return (
        f'POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n'
        f'Content-Type: application/json\r\n{headers}'
        f'Content-Length: {len(body)}\r\n\r\n'
    ).encode() + body


async def exchange(port: int, message: bytes) -> Reply:
    """Send a request and read until the server closes the connection."""
    reply, received = Reply(), bytearray()
    start = time.perf_counter()
    reader, writer = await asyncio.open_connection('127.0.0.1', port)
    try:
        writer.write(message)
        while chunk := await reader.read(2**16):
            received += chunk
            if not reply.first and b'"content": "' in received:
                reply.first = time.perf_counter() - start
    except ConnectionError:
        pass  # the bytes received before are used
    finally:
        writer.close()
    head, _, body = bytes(received).partition(b'\r\n\r\n')
    if head.startswith(b'HTTP/1.1 '):
        reply.status = int(head[9:12])
    reply.body = body
    return reply


async def ask_all(port: int, messages: list[bytes], clients: int):
    """Let clients share requests; returns the seconds and the replies."""
    todo = iter(enumerate(messages))
    replies: list[Reply] = [Reply() for _ in messages]

    async def client() -> None:
        for number, message in todo:
            replies[number] = await exchange(port, message)

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return time.perf_counter() - start, replies


def image_urls(number: int) -> list[str]:
    """Data URLs of scenes of the nano world."""
    from minigpt4.nano.world import render, sample_scene

    rng = random.Random(0)
    urls = []
    for _ in range(number):
        buffer = io.BytesIO()
        render(sample_scene(rng, held_out=True), rng).save(buffer, 'PNG')
        code = base64.b64encode(buffer.getvalue()).decode()
        urls.append(f'data:image/png;base64,{code}')
    return urls


def chat(question: str, url: str, **fields) -> dict:
    """The content of a request."""
    image = dict(type='image_url', image_url=dict(url=url))
    text = dict(type='text', text=question)
    return dict(messages=[dict(role='user', content=[image, text])], **fields)


def workload(number: int) -> list[bytes]:
    """Requests: each question about each of some images."""
    urls = image_urls(-(-number // len(QUESTIONS)))
    contents = [
        chat(question, url, stream=True)
        for url in urls
        for question in QUESTIONS
    ]
    return [request(json.dumps(c).encode()) for c in contents[:number]]


def measure(repeats: int, number: int = REQUESTS) -> list[dict]:
    """Measure; returns the benchmark rows."""
    messages = workload(number)
    sides: dict[int, list[float]] = {1: [], CLIENTS: []}
    firsts: list[float] = []
    texts: dict[int, list[str]] = {}
    errors = 0
    with server('--slots', str(CLIENTS), '--stored-tokens', '0') as (port, _):
        asyncio.run(ask_all(port, messages, CLIENTS))  # warm up
        for _ in range(repeats):
            for clients, seconds in sides.items():
                took, replies = asyncio.run(ask_all(port, messages, clients))
                seconds.append(took)
                errors += sum(reply.status != 200 for reply in replies)
                now = [reply.text for reply in replies]
                errors += texts.setdefault(clients, now) != now
                if clients == CLIENTS:
                    firsts += [reply.first for reply in replies]
    same = sum(map(str.__eq__, texts[1], texts[CLIENTS]))
    ratio = [min(sides[1]) / min(sides[CLIENTS])]
    ratio.append(
        statistics.median(sides[1]) / statistics.median(sides[CLIENTS])
    )
    guard = dict(
        guard_ok=errors == 0 and same == number and all(texts[1]),
        guard=f'{errors} errors, {same} of {number} answers equal',
    )
    row = harness.row(
        'serve-load',
        number / min(sides[CLIENTS]),
        'answers/s',
        peer=number / min(sides[1]),
        ratio=ratio[0],
        goal=4,
        **guard,
        peer_name='itself with one client',
        median=dict(
            ours=number / statistics.median(sides[CLIENTS]),
            peer=number / statistics.median(sides[1]),
            ratio=ratio[1],
        ),
        repeats=repeats,
        load_average=os.getloadavg(),
    )
    cuts = statistics.quantiles(firsts, n=100)
    return [
        row,
        *(
            harness.row(
                f'serve-load first-token p{p}',
                1000 * cuts[p - 1],
                f'ms, {CLIENTS} clients',
                **guard,
            )
            for p in (50, 99)
        ),
    ]
