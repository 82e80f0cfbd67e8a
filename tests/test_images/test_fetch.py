# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Downloads of images: no access to inner networks, and limits."""

import asyncio
import http.server
import io
import threading
import time

import pytest
from PIL import Image

httpcore = pytest.importorskip('httpcore', reason='needs minigpt4[serve]')

from minigpt4.images.errors import ImageError
from minigpt4.images.fetch import ImageFetcher, is_public
from minigpt4.images.host_lookup import Resolver

PUBLIC = '93.184.216.34'


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new('RGB', (8, 8), (255, 0, 0)).save(buffer, 'PNG')
    return buffer.getvalue()


def fetch(url: str, fetcher: ImageFetcher | None = None) -> bytes:
    return asyncio.run((fetcher or ImageFetcher(10_000, 5)).fetch(url))


def refused(url: str, fetcher: ImageFetcher | None = None) -> str:
    """The message of a refused URL, which is one short ASCII line."""
    with pytest.raises(ImageError) as caught:
        fetch(url, fetcher)
    text = str(caught.value)
    assert text.isascii() and '\n' not in text and len(text) < 400
    return text


@pytest.mark.parametrize(
    'address',
    [
        '127.0.0.1',
        '127.9.9.9',
        '0.0.0.0',
        '10.1.2.3',
        '172.16.0.1',
        '192.168.1.1',
        '100.64.0.1',  # shared by carriers; Alibaba's metadata
        '169.254.169.254',  # metadata of clouds
        '192.0.0.192',  # metadata of Oracle's
        '224.0.0.1',
        '255.255.255.255',
        '240.0.0.1',
        '::',
        '::1',
        '::7f00:1',
        'fe80::1',
        'fe80::1%eth0',
        'fc00::1',
        'fd00:ec2::254',  # metadata of AWS
        'fec0::1',
        'ff02::1',
        '2001:db8::1',
        '::ffff:127.0.0.1',
        '::ffff:10.0.0.1',
        '2002:7f00:1::',  # 6to4 of 127.0.0.1
        '2002:a00:1::1',
        '2001:0:7f00:1::',  # Teredo
        '64:ff9b:1::7f00:1',
        '3fff::1',
        '64:ff9b::7f00:1',  # NAT64 of 127.0.0.1
        '64:ff9b::a9fe:a9fe',
    ],
)
def test_inner_addresses_are_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize(
    'address',
    [PUBLIC, '8.8.8.8', '2606:4700::1111', '64:ff9b::808:808'],
)
def test_internet_addresses_are_public(address):
    assert is_public(address)


class Pages(http.server.BaseHTTPRequestHandler):
    """The handler of the tests' web server."""

    protocol_version = 'HTTP/1.1'

    def do_GET(self) -> None:
        self.server.requests.append((self.path, self.headers['Host']))
        page = self.server.pages[self.path.partition('?')[0]]
        if callable(page):
            page(self)
            return
        status, headers, body = page
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if 'Content-Length' not in headers:
            self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def web():
    """A web server on loopback, with ``pages`` by path and ``requests``."""
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Pages)
    server.daemon_threads = True
    server.requests, server.pages = [], {'/a.png': (200, {}, png())}
    server.url = f'http://127.0.0.1:{server.server_port}'
    threading.Thread(
        target=server.serve_forever, args=(0.01,), daemon=True
    ).start()
    yield server
    server.shutdown()
    server.server_close()


class FakeResolver:
    """Takes the addresses of a name in turn; looks up IP addresses."""

    def __init__(self, names: dict[str, list[list[str]]]) -> None:
        self.names = names

    async def addresses(self, host: str, port: int, seconds: float):
        if host not in self.names:
            return await Resolver().addresses(host, port, seconds)
        found = self.names[host]
        return found.pop(0) if len(found) > 1 else found[0]


class FakeInternet(httpcore.AnyIOBackend):
    """Connects the address ``PUBLIC`` to a server on loopback."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.connected: list[str] = []

    async def connect_tcp(self, host, port, *args, **settings):
        self.connected.append(host)
        assert host == PUBLIC
        return await super().connect_tcp('127.0.0.1', self.port)


@pytest.fixture
def internet(web):
    """A fetcher whose public hosts lead to ``web``.

    Yields the fetcher, the addresses of each name (one list for each
    look-up), and the addresses of its connections.
    """
    names = {'images.example': [[PUBLIC]]}
    backend = FakeInternet(web.server_port)
    fetcher = ImageFetcher(
        10_000, 60, resolver=FakeResolver(names), backend=backend
    )
    return fetcher, names, backend.connected


def test_an_image_is_fetched(web, internet):
    fetcher, _, _ = internet
    assert fetch('http://images.example/a.png', fetcher) == png()
    assert fetch('http://images.example/a.png?b=\u00e9 c', fetcher) == png()
    assert web.requests == [
        ('/a.png', 'images.example'),
        ('/a.png?b=%C3%A9%20c', 'images.example'),
    ]


@pytest.mark.parametrize(
    'url',
    [
        'http://127.0.0.1:{}/a.png',
        'http://localhost:{}/a.png',
        'http://[::1]:{}/a.png',
        'http://[::ffff:127.0.0.1]:{}/a.png',
        'http://2130706433:{}/a.png',  # 127.0.0.1 as one number
        'http://0x7f.1:{}/a.png',
        'http://0177.0.0.1:{}/a.png',
        'http://127.1:{}/a.png',
        'http://127.0.0.1.:{}/a.png',
        'http://0.0.0.0:{}/a.png',
        'HTTP://LOCALHOST:{}/a.png',
    ],
)
def test_loopback_is_refused(web, url):
    refused(url.format(web.server_port))
    assert web.requests == []


def test_a_name_with_an_inner_address_is_refused(web, internet):
    fetcher, names, connected = internet
    for inner in ('127.0.0.1', '169.254.169.254', '10.0.0.1'):
        names['inner.example'] = [[inner]]
        assert 'not public' in refused('http://inner.example/a.png', fetcher)
        names['inner.example'] = [[PUBLIC, inner]]
        assert 'not public' in refused('http://inner.example/a.png', fetcher)
    assert not connected and not web.requests


def test_dns_rebinding_gains_nothing(web, internet):
    """A name is looked up once; the connection goes to that address."""
    fetcher, names, connected = internet
    names['rebinding.example'] = [[PUBLIC], ['127.0.0.1']]
    assert fetch('http://rebinding.example/a.png', fetcher) == png()
    assert connected == [PUBLIC]


def test_redirects_are_followed_and_checked(web, internet):
    fetcher, _, _ = internet

    def to(url):
        return 302, {'Location': url}, b''

    web.pages |= {
        '/once': to('/a.png'),
        '/away': to(f'{web.url}/a.png'),
        '/metadata': to('http://169.254.169.254/latest/meta-data/'),
        '/file': to('file:///etc/passwd'),
        '/round': to('/round'),
    }
    base = 'http://images.example'
    assert fetch(base + '/once', fetcher) == png()
    assert 'not public' in refused(base + '/away', fetcher)
    assert 'not public' in refused(base + '/metadata', fetcher)
    assert 'not a URL that is fetched' in refused(base + '/file', fetcher)
    assert 'more than 3 redirects' in refused(base + '/round', fetcher)
    assert [path for path, _ in web.requests].count('/round') == 4
    assert {host for _, host in web.requests} == {'images.example'}


def test_only_listed_hosts_are_allowed(web):
    only = ImageFetcher(10_000, 60, ['127.0.0.1'])
    assert fetch(web.url + '/a.png', only) == png()
    assert 'not fetched from' in refused('http://example.com/a.png', only)
    nowhere = ImageFetcher(10_000, 60, [])
    assert 'not fetched from' in refused(web.url + '/a.png', nowhere)
    assert len(web.requests) == 1


def endless(page) -> None:
    page.send_response(200)
    page.end_headers()
    try:
        while True:
            page.wfile.write(bytes(1000))
            time.sleep(0.001)
    except OSError:
        page.close_connection = True


def slow(page) -> None:
    """Its headers take six minutes."""
    try:
        for byte in b'HTTP/1.1 200 OK\r\n' + b'X: y\r\n' * 1200:
            page.wfile.write(bytes([byte]))
            page.wfile.flush()
            time.sleep(0.05)
    except OSError:
        page.close_connection = True


def garbage(page) -> None:
    page.wfile.write(b'SSH-2.0-OpenSSH_9.6\r\n')
    page.close_connection = True


def cut(page) -> None:
    page.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc')
    page.close_connection = True


def test_failures_of_web_servers_are_reported(web):
    web.pages |= {
        '/endless': endless,
        '/slow': slow,
        '/garbage': garbage,
        '/cut': cut,
        '/gone': (404, {}, b''),
        '/packed': (200, {'Content-Encoding': 'gzip'}, b'abc'),
        '/large': (200, {'Content-Length': '999999999'}, b''),
        '/nowhere': (301, {}, b''),
    }
    fetcher = ImageFetcher(5000, 60, ['127.0.0.1'])
    hasty = ImageFetcher(5000, 0.5, ['127.0.0.1'])

    def why(path):
        return refused(web.url + path, fetcher)

    assert 'at most 5,000 are allowed' in why('/endless')
    began = time.monotonic()
    found = refused(web.url + '/slow', hasty)
    assert 'did not arrive within 0.5 seconds' in found
    assert time.monotonic() - began < 60
    assert 'cannot be fetched' in why('/garbage')
    assert 'cannot be fetched' in why('/cut')
    assert 'answered with status 404' in why('/gone')
    assert 'is compressed (gzip)' in why('/packed')
    assert 'at most 5,000 are allowed' in why('/large')
    assert 'status 301' in why('/nowhere')


@pytest.mark.parametrize(
    'url',
    [
        'http://',
        'http:///a.png',
        'http://[::1/a.png',
        'http://host:port/a.png',
        'http://host:99999/a.png',
        'http://host:0/a.png',
        'http://user:word@host/a.png',
        'http://' + 'a' * 300 + '/a.png',
        'http://a..b/a.png',
        'http://\x00/a.png',
        'http://127.0.0.1\r\nX: y/a.png',
        'https://nobody.invalid/a.png',
    ],
)
def test_malformed_urls_are_refused(url):
    refused(url)


def test_headers_cannot_be_injected(web):
    fetcher = ImageFetcher(10_000, 60, ['127.0.0.1'])
    for ending in ('\r\nX: y', '%0d%0aX: y', ' HTTP/1.1\nX: y'):
        web.pages = dict.fromkeys(
            ('/a.pngX:%20y', '/a.png%0d%0aX:%20y', '/a.png%20HTTP/1.1X:%20y'),
            (200, {}, png()),
        )
        assert fetch(web.url + '/a.png' + ending, fetcher) == png()
    assert len(web.requests) == 3


def test_any_host_may_be_allowed_with_another_hint(web):
    fetcher = ImageFetcher(
        10_000, 60, any_host=True, fallback='save the image'
    )
    assert fetch(web.url + '/a.png', fetcher) == png()
    assert refused('https://nobody.invalid/', fetcher).endswith(
        '; check the URL, or save the image.'
    )
