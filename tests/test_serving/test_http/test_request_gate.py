# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Admission of requests: capacity, API key, size and time of bodies."""

import asyncio
from types import SimpleNamespace

import pytest

pytest.importorskip('starlette', reason='needs minigpt4[serve]')

from starlette.requests import Request

from minigpt4.serving.http.errors import ApiError
from minigpt4.serving.http.parse_request import RequestLimits
from minigpt4.serving.http.request_gate import RequestGate


def make_gate(api_key=None, body_seconds=600.0, **limits) -> RequestGate:
    worker = SimpleNamespace(
        engine=SimpleNamespace(slots=1),
        max_waiting=1,
        alive=True,
        running=0,
        waiting=0,
        cancel_all=lambda: 0,
    )
    return RequestGate(worker, RequestLimits(**limits), api_key, body_seconds)


def make_request(chunks=(), **headers) -> Request:
    """A request whose body never ends after its chunks."""
    headers = {'content-type': 'application/json', **headers}
    scope = dict(
        type='http',
        headers=[(k.encode(), v.encode()) for k, v in headers.items()],
    )
    messages = [
        dict(type='http.request', body=chunk, more_body=True)
        for chunk in chunks
    ]

    async def receive():
        if messages:
            return messages.pop(0)
        await asyncio.Event().wait()

    return Request(scope, receive)


def status_of(function, *args) -> int:
    with pytest.raises(ApiError) as caught:
        function(*args)
    return caught.value.status


def test_each_choice_counts_as_a_request():
    gate = make_gate()
    both = gate.admit('a', 2)
    assert gate.admitted == gate.clients['a'] == 2
    assert status_of(gate.admit, 'b') == 429
    both.release(1)
    one = gate.admit('b')
    assert status_of(gate.admit, 'b', 2) == 429
    both.release()
    both.release(1)
    one.release()
    assert gate.admitted == 0 and not gate.clients


def test_no_request_has_more_choices_than_the_capacity():
    assert make_gate().limits.choices == 2
    assert make_gate(client_requests=1).limits.choices == 1
    assert make_gate(choices=1).limits.choices == 1


def test_capacity_is_slots_and_waiting_requests():
    gate = make_gate()
    first, second = gate.admit('a'), gate.admit('b')
    assert status_of(gate.admit, 'c') == 429
    first.release()
    first.release()  # has no effect
    assert gate.admitted == 1 and dict(gate.clients) == {'b': 1}
    gate.admit('c')
    assert status_of(gate.check_capacity, 'd') == 429
    second.release()
    gate.check_capacity('d')


def test_requests_of_one_client_are_limited():
    gate = make_gate(client_requests=1)
    gate.admit('a')
    assert status_of(gate.admit, 'a') == 429
    gate.admit('b')


def test_the_api_key_is_required():
    gate = make_gate('secret')
    gate.require_key(make_request(authorization='bearer  secret '))
    for value in ('', 'secret', 'Bearer wrong', 'Basic secret'):
        request = make_request(authorization=value)
        assert status_of(gate.require_key, request) == 401
    make_gate().require_key(make_request())


def test_requests_are_refused_when_the_server_stops():
    gate = make_gate()
    with gate.track_request():
        assert gate.in_flight == 1 and not gate.idle
    assert gate.idle
    gate.draining = True
    assert status_of(gate.track_request().__enter__) == 503


@pytest.mark.parametrize(
    ('chunks', 'headers', 'status'),
    [
        ([], {'content-type': 'text/plain'}, 415),
        ([], {'content-encoding': 'gzip'}, 415),
        ([], {'content-length': '1001'}, 413),
        ([b'a' * 600] * 2, {}, 413),
        ([b'a'], {}, 408),
    ],
)
def test_bodies_that_are_refused(chunks, headers, status):
    gate = make_gate(body=1000, body_seconds=0.05)
    request = make_request(chunks, **headers)
    with pytest.raises(ApiError) as caught:
        asyncio.run(gate.read_body(request))
    assert caught.value.status == status
    assert gate.body_bytes == 0


def test_large_bodies_are_refused_if_others_take_the_memory():
    gate = make_gate(body=2**20)
    with gate.track_bytes(4 * 2**20), pytest.raises(ApiError) as caught:
        asyncio.run(gate.read_body(make_request([b'a' * 2**19])))
    assert caught.value.status == 429 and gate.body_bytes == 0


def test_incomplete_bodies_are_refused_at_a_stop():
    gate = make_gate()

    async def run() -> None:
        read = asyncio.ensure_future(gate.read_body(make_request([b'a'])))
        while not gate.body_bytes:
            await asyncio.sleep(0)
        gate.refuse_incomplete()
        await read

    with pytest.raises(ApiError) as caught:
        asyncio.run(asyncio.wait_for(run(), 60))
    assert caught.value.status == 503 and gate.body_bytes == 0
