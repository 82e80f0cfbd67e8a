# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 serve`` under malformed requests.

Invalid JSON, wrong types, invalid base64, pixel bombs, deeply nested JSON,
unknown parameters, inner addresses, files, bodies that are too long, invalid
HTTP, and connections that are closed early. Every request is malformed, so
every answer has to be a 4xx with a sentence. The figure is the server's
memory at the end divided by its memory after the first tenth. The guard: the
server never ended, no other answer was sent, and a valid request gets the
same answer before and after.
"""

import asyncio
import base64
import copy
import json
import os
import random
import string
import struct
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import harness
import serve_load

REQUESTS = 10_000
CLIENTS = 8
_CUT = 'cut'  # kind of request whose client disconnects


def png_bomb(width: int, height: int) -> bytes:
    """A small PNG whose header announces many pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = struct.pack('>I', zlib.crc32(kind + body))
        return struct.pack('>I', len(body)) + kind + body + crc

    header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    return (
        b'\x89PNG\r\n\x1a\n'
        + chunk(b'IHDR', header)
        + chunk(b'IDAT', zlib.compress(bytes(10_000)))
        + chunk(b'IEND', b'')
    )


def malformed(
    rng: random.Random, good: dict, number: int
) -> Iterator[tuple[str, bytes]]:
    """Generate malformed requests: their kinds and their bytes.

    Args:
        rng: Selects and generates them.
        good: The content of a valid request.
        number: The number of requests.
    """
    makers = {
        'json': _broken_json,
        'type': _wrong_type,
        'base64': _broken_base64,
        'bomb': _bomb,
        'parameter': _parameter,
        'address': _address,
        'http': _broken_http,
        _CUT: _cut,
    }
    for _ in range(number):
        kind = rng.choice(list(makers))
        yield kind, makers[kind](rng, copy.deepcopy(good))


def _send(content) -> bytes:
    return serve_load.request(json.dumps(content).encode())


def _image_of(content: dict) -> dict:
    return content['messages'][0]['content'][0]['image_url']


def _broken_json(rng: random.Random, good: dict) -> bytes:
    while True:
        body = bytearray(json.dumps(good).encode())
        for _ in range(rng.randint(1, 8)):
            index = rng.randrange(len(body))
            change = rng.choice(('cut', 'insert', 'replace', 'remove'))
            if change == 'cut':
                del body[index:]
                body += b' '
            elif change == 'insert':
                body.insert(index, rng.randrange(256))
            elif change == 'replace':
                body[index] = rng.randrange(256)
            else:
                del body[index]
                body += b' '
        try:
            json.loads(bytes(body))
        except ValueError:
            return serve_load.request(bytes(body))


def _wrong_type(rng: random.Random, good: dict) -> bytes:
    """Replace one value of the request by one of another type."""
    message = good['messages'][0]
    image, text = message['content']
    parent, name = rng.choice(
        [
            (good, 'messages'),
            (good['messages'], 0),
            (message, 'role'),
            (message, 'content'),
            (message['content'], 0),
            (image, 'type'),
            (image, 'image_url'),
            (image['image_url'], 'url'),
            (text, 'type'),
            (text, 'text'),
            (good, 'temperature'),
            (good, 'max_tokens'),
            (good, 'stream'),
            (good, 'stop'),
            (good, 'seed'),
        ]
    )
    wrong = [{'a': []}, [[]], [{}], -1.5, 10**400, float('inf'), {'': None}]
    if name not in ('stream', 'text', 'url'):
        wrong.append('\ud800')
    parent[name] = rng.choice(wrong)
    return _send(good)


def _broken_base64(rng: random.Random, good: dict) -> bytes:
    image = _image_of(good)
    head, _, code = image['url'].partition(',')
    noise = rng.randbytes(rng.randint(1, 3000))
    cut = base64.b64decode(code)[: rng.randint(1, 50)]
    image['url'] = rng.choice(
        [
            f'{head},{code[: rng.randrange(40)]}',
            f'{head},{"".join(rng.choices(string.punctuation, k=99))}',
            f'{head},{code[:50]}\u20ac{code[50:]}',
            f'{head},{base64.b64encode(noise).decode()}',
            f'{head},{base64.b64encode(cut).decode()}',
            f'data:image/png,{code}',
            code,
            f'{head};{code}',
        ]
    )
    return _send(good)


def _bomb(rng: random.Random, good: dict) -> bytes:
    kind = rng.randrange(6)
    if kind == 0:
        side = rng.choice((6000, 20_000, 60_000, 2**31 - 1))
        code = base64.b64encode(png_bomb(side, side)).decode()
        _image_of(good)['url'] = f'data:image/png;base64,{code}'
        return _send(good)
    if kind == 1:
        brackets = rng.choice((b'[', b'{"a":', b'[[],'))
        return serve_load.request(brackets * rng.randint(1000, 100_000))
    if kind == 2:
        good['messages'][0]['content'] *= rng.randint(20, 3000)
        return _send(good)
    if kind == 3:
        words = rng.choice(('a', 'a ', '\u20ac', '###', ' '))
        good['messages'] = [dict(role='user', content=words * 200_000)]
        return _send(good)
    if kind == 4:
        return serve_load.request(b'{"n":' + b'9' * 100_000 + b'}')
    # a body above the limit; none of it is sent
    return serve_load.request(b'').replace(
        b'Content-Length: 0', b'Content-Length: 99999999999'
    )


def _parameter(rng: random.Random, good: dict) -> bytes:
    name, value = rng.choice(
        [
            ('n', rng.choice((0, 9, 1.5, '2', True))),
            ('tools', [dict(type='function')]),
            ('logprobs', rng.choice((0, 1, 'yes'))),
            ('top_logprobs', rng.choice((5, 21, -1, True, '5'))),
            ('response_format', dict(type='json_object')),
            ('temperature', rng.choice((-1, 2.5, '1', float('nan')))),
            ('max_tokens', rng.choice((0, -1, 10**9, 1.5))),
            ('top_p', rng.choice((-0.1, 1.1, []))),
            ('stop', rng.choice(('', [''], ['a'] * 9))),
            ('seed', 2**70),
            ('model', rng.choice(('gpt-5', '', '\u0000', 'a' * 10_000))),
            ('stream_options', dict(a=1)),
            (''.join(rng.choices(string.printable, k=9)), 1),
        ]
    )
    good[name] = value
    return _send(good)


def _address(rng: random.Random, good: dict) -> bytes:
    _image_of(good)['url'] = rng.choice(
        [
            'http://127.0.0.1:8000/health',
            'http://169.254.169.254/latest/meta-data/',
            'http://[::1]/',
            'http://[::ffff:10.0.0.1]/a.png',
            'http://localhost/a.png',
            'http://0/',
            'http://2130706433/',
            'http://user:word@10.0.0.1/',
            'http://' + 'a' * rng.randint(64, 300) + '/',
            'https://10.0.0.1:99999/',
            'file:///etc/passwd',
            'file://../../etc/passwd',
            'ftp://10.0.0.1/a',
            '',
            ''.join(rng.choices(string.printable, k=40)),
        ]
    )
    return _send(good)


def _broken_http(rng: random.Random, good: dict) -> bytes:
    whole = _send(good)
    return rng.choice(
        [
            rng.randbytes(rng.randint(5, 200)) + b'\r\n\r\n',
            whole.replace(b'POST', rng.choice((b'GET', b'PUT', b'P\xffT')), 1),
            whole.replace(b'/v1/chat', rng.choice((b'/v2/chat', b'/v1')), 1),
            whole.replace(b'application/json', b'text/plain', 1),
            whole.replace(b'HTTP/1.1', b'HTTP/x', 1),
            whole.replace(b'Content-Length', b'Content-Length: x\r\nA', 1),
            whole.replace(b'Host: localhost', b'A' * 70_000 + b': b', 1),
            whole.replace(b'Host: localhost\r\n', b'Host\r\n', 1),
        ]
    )


def _cut(rng: random.Random, good: dict) -> bytes:
    """The beginning of a valid request; the client then disconnects."""
    good['stream'] = rng.random() < 0.5
    whole = _send(good)
    return whole[: rng.randrange(1, len(whole) + 1)]


async def send_all(
    port: int, requests: list[tuple[str, bytes]], clients: int = CLIENTS
) -> Counter:
    """Send requests; count them by kind and outcome."""
    todo = iter(requests)
    outcomes: Counter = Counter()

    async def client() -> None:
        for kind, message in todo:
            if kind == _CUT:
                _, writer = await asyncio.open_connection('127.0.0.1', port)
                writer.write(message)
                await asyncio.sleep(0.002)
                writer.transport.abort()
                outcomes[kind, 'cut'] += 1
                continue
            reply = await asyncio.wait_for(
                serve_load.exchange(port, message), 60
            )
            outcomes[kind, judge(reply)] += 1

    await asyncio.gather(*(client() for _ in range(clients)))
    return outcomes


def judge(reply: serve_load.Reply) -> str:
    """Return ``refused``, or a description of a wrong answer."""
    if not 400 <= reply.status < 500:
        return f'status {reply.status}: {reply.body[:200]!r}'
    text = reply.body.decode('utf-8', 'replace')
    if reply.body.startswith(b'{'):
        text = json.loads(text)['error']['message']
    # uvicorn refuses invalid HTTP with its own text
    if len(text.split()) < 3 or '\n' in text or not text.endswith('.'):
        return f'no sentence: {text[:200]!r}'
    return 'refused'


def memory(pid: int) -> float:
    """Resident memory of a process in MiB."""
    status = Path(f'/proc/{pid}/status').read_text()
    line = next(x for x in status.splitlines() if x.startswith('VmRSS'))
    return int(line.split()[1]) / 1024


def measure(repeats: int, number: int = REQUESTS) -> list[dict]:
    """Measure one repetition; returns the benchmark rows."""
    rng = random.Random(0)
    good = serve_load.chat(
        serve_load.QUESTIONS[0], serve_load.image_urls(1)[0], temperature=0
    )
    asked = serve_load.request(json.dumps(dict(good, stream=True)).encode())
    requests = list(malformed(rng, good, number))
    tenth = number // 10
    with serve_load.server() as (port, process):
        before = asyncio.run(serve_load.exchange(port, asked)).text
        outcomes = asyncio.run(send_all(port, requests[:tenth]))
        start_memory = memory(process.pid)
        start = time.perf_counter()
        outcomes += asyncio.run(send_all(port, requests[tenth:]))
        seconds = time.perf_counter() - start
        end_memory = memory(process.pid)
        after = asyncio.run(serve_load.exchange(port, asked)).text
        alive = process.poll() is None
    wrong = {
        f'{kind}: {outcome}': count
        for (kind, outcome), count in outcomes.items()
        if outcome not in ('refused', 'cut')
    }
    answered = sum(c for (_, o), c in outcomes.items() if o == 'refused')
    same = bool(before) and before == after
    return [
        harness.row(
            'serve-fuzz',
            end_memory / start_memory,
            'x memory after the first tenth',
            at_most=1.05,
            guard_ok=alive and not wrong and same,
            guard=f'{"alive" if alive else "DEAD"}, {answered} refused, '
            f'{sum(wrong.values())} with another answer, a valid request '
            f'{"equal" if same else "DIFFERS"}',
            wrong=dict(list(wrong.items())[:20]),
            megabytes=[start_memory, end_memory],
            requests=number,
            requests_per_second=(number - tenth) / seconds,
            load_average=os.getloadavg(),
        )
    ]
