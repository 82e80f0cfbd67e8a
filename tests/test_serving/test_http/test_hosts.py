# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The ``Host`` and ``Origin`` headers that a server accepts."""

import asyncio

import pytest

pytest.importorskip('starlette', reason='needs minigpt4[serve]')

from minigpt4.serving.http.hosts import (
    HostGuard,
    HostRules,
    is_loopback,
    own_names,
)


@pytest.mark.parametrize(
    'host',
    [
        '127.0.0.1',
        '127.0.0.1:8000',
        '192.168.1.7:8000',
        '0.0.0.0:8000',
        '[::1]',
        '[::1]:8000',
        '[fe80::1]:8000',
        'localhost',
        'LOCALHOST:8000',
        'localhost.',
        'chat.localhost:8000',
    ],
)
def test_ip_addresses_and_localhost_are_accepted(host):
    assert HostRules().accepts_host(host)


@pytest.mark.parametrize(
    'host',
    [
        '',
        'evil.example',
        'evil.example:8000',
        'localhost.evil.example',
        '127.0.0.1.evil.example',
        'evillocalhost',
        'localhost@evil.example',
        'localhost, evil.example',
        'localhost/evil.example',
        'localhost:8000:80',
        'localhost:',
        '[::1',
        '::1',
        'a b',
        'localhost\n',
        '\u0661\u0662\u0667.0.0.1',  # digits of another script
        '2130706433x',
    ],
)
def test_other_and_malformed_hosts_are_refused(host):
    assert not HostRules().accepts_host(host)


def test_further_host_names_can_be_allowed():
    rules = HostRules(['Chat.Example.com', '*.inner.example', 'minigpt4'])
    for host in ('chat.example.com', 'a.inner.example:80', 'minigpt4:8000'):
        assert rules.accepts_host(host)
    for host in ('example.com', 'inner.example', 'x.chat.example.com'):
        assert not rules.accepts_host(host)
    assert HostRules(['*']).accepts_host('any.example')


def test_pages_of_the_same_server_are_accepted():
    rules = HostRules()
    for origin, host in (
        ('http://localhost:8000', 'localhost:8000'),
        ('http://127.0.0.1:8000', '127.0.0.1:8000'),
        ('http://chat.example.com', 'chat.example.com'),
        ('http://chat.example.com:80', 'chat.example.com'),
        # a proxy that ends TLS
        ('https://chat.example.com', 'chat.example.com'),
        ('https://chat.example.com:443', 'chat.example.com:443'),
        ('https://[::1]:8443', '[::1]:8443'),
    ):
        assert rules.accepts_origin(origin, host), origin


@pytest.mark.parametrize(
    'origin',
    [
        'http://evil.example',
        'null',
        '',
        'http://localhost:3000',  # another program of this machine
        'http://127.0.0.1:8000',  # the same server, but another origin
        'http://localhost:8000.evil.example',
        'http://localhost:8000@evil.example',
        'http://localhost:8000/path',
        'file://',
        'chrome-extension://abcdef',
        'http://localhost:99999',
    ],
)
def test_pages_of_other_sites_are_refused(origin):
    assert not HostRules().accepts_origin(origin, 'localhost:8000')


def test_further_origins_can_be_allowed():
    """Desktop programs send null or their own scheme (jan #8131)."""
    rules = HostRules(
        (), ['https://chat.example.com', 'null', 'tauri://localhost']
    )
    for origin in (
        'https://chat.example.com',
        'https://chat.example.com:443',
        'null',
        'tauri://localhost',
    ):
        assert rules.accepts_origin(origin, 'localhost:8000'), origin
    assert not rules.accepts_origin('http://chat.example.com', 'localhost')


def test_malformed_names_and_origins_are_refused():
    for name in ('http://a.example', 'a.example/b', 'a b', ''):
        with pytest.raises(ValueError, match='not a host name'):
            HostRules([name])
    for origin in ('chat.example.com', 'https://a/b', '*', 'https://'):
        with pytest.raises(ValueError, match='not an origin'):
            HostRules((), [origin])


def test_own_names_are_the_bound_name_and_that_of_the_machine(monkeypatch):
    monkeypatch.setattr('socket.gethostname', lambda: 'box.lan')
    assert own_names('127.0.0.1') == own_names('::1') == []
    assert own_names('localhost') == ['localhost']
    assert own_names('0.0.0.0') == ['box.lan', 'box.local']
    assert own_names('chat.lan') == ['chat.lan', 'box.lan', 'box.local']
    assert is_loopback('127.8.0.1') and not is_loopback('0.0.0.0')


def send_request(
    guard, headers, method='POST', path='/v1/chat/completions', kind=None
):
    """Send a request through the guard; returns its status."""
    sent = []

    async def receive():
        return dict(type='http.request', body=b'', more_body=False)

    async def send(message):
        sent.append(message)

    scope = dict(
        type=kind or 'http',
        path=path,
        headers=[(k.encode(), v.encode()) for k, v in headers],
    )
    if kind is None:
        scope['method'] = method
    asyncio.run(guard(scope, receive, send))
    return sent[0].get('status', sent[0]['type'])


@pytest.fixture
def guard():
    async def passed(scope, receive, send):
        await send(dict(type='http.response.start', status=200))

    return HostGuard(passed, HostRules())


JSON = ('content-type', 'application/json')


def test_requests_of_other_sites_are_refused(guard):
    here = ('host', 'localhost:8000')
    other_origin = ('origin', 'http://evil.example')
    assert send_request(guard, [here, JSON]) == 200  # curl and other programs
    assert (
        send_request(guard, [here, JSON, ('origin', 'http://localhost:8000')])
        == 200
    )
    assert send_request(guard, [here, JSON, other_origin]) == 403
    assert send_request(guard, [here, other_origin], 'GET', '/config') == 403
    assert send_request(guard, [here, other_origin], 'OPTIONS') == 403
    assert send_request(guard, [('host', 'evil.example'), JSON]) == 403
    assert send_request(guard, [JSON]) == 403
    assert send_request(guard, [here, ('host', 'evil.example'), JSON]) == 403
    upload = ('content-type', 'multipart/form-data; boundary=x')
    path = '/gradio_api/upload'
    assert send_request(guard, [here, upload, other_origin], path=path) == 403
    assert (
        send_request(guard, [here, other_origin], kind='websocket')
        == 'websocket.close'
    )
