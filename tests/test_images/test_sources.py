# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The images of requests: limits, broken data, and nobody's inner network."""

import asyncio
import base64
import http.server
import io
import os
import socket
import struct
import threading
import time
import zlib

import pytest
from PIL import Image

from minigpt4.images import fetch as image_fetch
from minigpt4.images.fetch import ImageError, is_public
from minigpt4.images.sources import ImageLimits, ImageSources

PUBLIC = '93.184.216.34'


def png(size=(8, 8), color=(255, 0, 0)) -> bytes:
    buffer = io.BytesIO()
    Image.new('RGB', size, color).save(buffer, 'PNG')
    return buffer.getvalue()


def data_url(data: bytes, kind: str = 'image/png') -> str:
    return f'data:{kind};base64,{base64.b64encode(data).decode()}'


def read(url: str, sources: ImageSources | None = None) -> bytes:
    return asyncio.run((sources or ImageSources()).bytes_of(url))


def refused(url: str, sources: ImageSources | None = None) -> str:
    """Why; always one sentence in ASCII that fits a line."""
    with pytest.raises(ImageError) as caught:
        read(url, sources)
    text = str(caught.value)
    assert text.isascii() and '\n' not in text and len(text) < 400
    return text


# data URLs


def test_a_data_url_is_read():
    assert read(data_url(png())) == png()
    assert read('DATA:image/png;BASE64,' + data_url(png())[22:]) == png()
    lines = base64.encodebytes(png()).decode()
    assert '\n' in lines
    assert read('data:image/png;base64,' + lines) == png()
    for size in (30, 31, 32):  # openedai-vision #4: without the padding
        data = bytes(range(size))
        assert read(data_url(data).rstrip('=')) == data


@pytest.mark.parametrize(
    ('url', 'why'),
    [
        ('data:image/png;base64,@@@@', 'base64 of a data URL is broken'),
        ('data:image/png;base64,abcde', 'base64 of a data URL is broken'),
        ('data:image/png;base64,\u00e9\u00e9\u00e9\u00e9', 'is broken'),
        ('data:image/png;base64,', 'has no bytes'),
        ('data:image/png,abcd', 'has no base64 part'),
        ('data:', 'has no base64 part'),
        ('iVBORw0KGgo=', 'is no URL that is read here'),
        ('', 'is no URL that is read here'),
        ('ftp://host/a.png', 'is no URL that is read here'),
        ('javascript:alert(1)', 'is no URL that is read here'),
        ('/etc/passwd', 'is no URL that is read here'),
    ],
)
def test_broken_data_is_told(url, why):
    assert why in refused(url)


def test_bytes_are_limited_before_they_are_decoded(monkeypatch):
    sources = ImageSources(ImageLimits(bytes=1000))
    monkeypatch.setattr(base64, 'b64decode', None)  # must not be reached
    url = 'data:image/png;base64,' + 'A' * 4000
    assert 'at most 1,000 are allowed' in refused(url, sources)


# pictures


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header promises what its few bytes do not hold."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        crc = zlib.crc32(kind + body)
        return (
            struct.pack('>I', len(body)) + kind + body + struct.pack('>I', crc)
        )

    header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    return (
        b'\x89PNG\r\n\x1a\n'
        + chunk(b'IHDR', header)
        + chunk(b'IDAT', zlib.compress(bytes(1000)))
        + chunk(b'IEND', b'')
    )


@pytest.mark.parametrize('side', [6000, 15_000, 60_000])
def test_a_bomb_of_pixels_is_not_decoded(side, monkeypatch):
    def load(self):
        raise AssertionError('decoded')

    monkeypatch.setattr('PIL.ImageFile.ImageFile.load', load)
    with pytest.raises(ImageError, match='pixels'):
        ImageSources().picture(bomb(side, side))


def test_pixels_up_to_the_limit_are_read():
    sources = ImageSources(ImageLimits(pixels=64))
    assert sources.picture(png((8, 8))).getpixel((0, 0)) == (255, 0, 0)
    with pytest.raises(ImageError, match='9 x 8 pixels; at most 64'):
        sources.picture(png((9, 8)))


@pytest.mark.parametrize(
    'data',
    [
        b'',
        b'<html>',
        png()[:40],
        png((64, 64))[:60],
        b'\xff\xd8\xff',
        b'GIF89a',
    ],
    ids=['empty', 'page', 'header', 'cut', 'jpeg', 'gif'],
)
def test_what_is_no_whole_picture_is_told(data):
    with pytest.raises(ImageError, match='read'):
        ImageSources().picture(data)


def test_pictures_that_start_programs_are_not_opened():
    """Pillow reads EPS by running Ghostscript."""
    eps = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EOF\n'
    with pytest.raises(ImageError, match='none that can be read'):
        ImageSources().picture(eps)
    assert Image.open(io.BytesIO(eps)).format == 'EPS'  # Pillow would


@pytest.mark.parametrize('format_', ['JPEG', 'WEBP', 'GIF', 'BMP', 'TIFF'])
def test_common_pictures_are_read(format_):
    buffer = io.BytesIO()
    Image.new('RGB', (16, 16), (0, 0, 255)).save(buffer, format_)
    assert ImageSources().picture(buffer.getvalue()).size == (16, 16)


# files


@pytest.fixture
def folder(tmp_path):
    inside = tmp_path / 'pictures'
    (inside / 'sub').mkdir(parents=True)
    (inside / 'sub' / 'a b.png').write_bytes(png())
    (tmp_path / 'secret.png').write_bytes(png())
    (inside / 'link.png').symlink_to(tmp_path / 'secret.png')
    os.mkfifo(inside / 'pipe.png')
    return inside


def test_files_are_read_below_the_folder_alone(folder):
    sources = ImageSources(folder=folder)
    assert read('file:sub/a%20b.png', sources) == png()
    assert read(f'file://{folder}/sub/a%20b.png', sources) == png()
    outside = [
        'file:///etc/passwd',
        f'file://{folder.parent}/secret.png',
        f'file://{folder.parent}/nothing.png',
        'file:../secret.png',
        'file:%2e%2e/secret.png',
        'file:link.png',
        'file:sub/../../secret.png',
        f'file://host{folder}/sub/a%20b.png',
        'file:%00',
        'file://[',
        'file:',
        'file:pipe.png',  # would wait for ever
    ]
    words = {refused(url, sources).partition(' is ')[2] for url in outside}
    # nobody learns which of them exist
    assert words == {
        'no file that may be read; expected one below the folder of '
        '--images-from.'
    }


def test_files_are_limited(folder):
    sources = ImageSources(ImageLimits(bytes=20), folder=folder)
    assert 'at most 20 are' in refused('file:sub/a%20b.png', sources)


def test_no_file_is_read_unless_a_folder_is_opened(folder):
    url = f'file://{folder}/sub/a%20b.png'
    assert 'may not be named' in refused(url)
    with pytest.raises(NotADirectoryError, match='is no folder'):
        ImageSources(folder=folder / 'nowhere')


# the web


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
def test_the_internet_is_public(address):
    assert is_public(address)


class Pages(http.server.BaseHTTPRequestHandler):
    """What the tests' web server says."""

    protocol_version = 'HTTP/1.1'

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers['Host']))
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
    """A web server on loopback: ``pages`` by path, and what was asked."""
    pytest.importorskip('h11', reason='needs minigpt4[serve]')
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Pages)
    server.daemon_threads = True
    server.asked, server.pages = [], {'/a.png': (200, {}, png())}
    server.url = f'http://127.0.0.1:{server.server_port}'
    threading.Thread(
        target=server.serve_forever, args=(0.01,), daemon=True
    ).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def internet(web, monkeypatch):
    """Names that resolve, and a public address that leads to ``web``.

    Yields ``(names, connected)``: lists of addresses by name, taken in turn
    at each look-up, and where connections went.
    """
    names = {'pictures.example': [[PUBLIC]]}
    connected = []
    open_connection = asyncio.open_connection
    getaddrinfo = socket.getaddrinfo

    def look_up(host, port, **settings):
        if host not in names or settings.get('flags'):
            return getaddrinfo(host, port, **settings)
        answers = names[host]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, '', (address, port))
            for address in answer
        ]

    async def connect(host, port, **settings):
        connected.append(host)
        assert host == PUBLIC
        return await open_connection('127.0.0.1', web.server_port)

    monkeypatch.setattr(socket, 'getaddrinfo', look_up)
    monkeypatch.setattr(image_fetch.asyncio, 'open_connection', connect)
    return names, connected


def test_a_picture_of_the_web_is_fetched(web, internet):
    assert read('http://pictures.example/a.png') == png()
    assert read('http://pictures.example/a.png?b=\u00e9 c') == png()
    assert web.asked == [
        ('/a.png', 'pictures.example'),
        ('/a.png?b=%C3%A9%20c', 'pictures.example'),
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
def test_this_machine_is_not_fetched_from(web, url):
    refused(url.format(web.server_port))
    assert web.asked == []


def test_an_inner_address_behind_a_public_name_is_refused(web, internet):
    names, connected = internet
    for inner in ('127.0.0.1', '169.254.169.254', '10.0.0.1'):
        names['inner.example'] = [[inner]]
        assert 'not public' in refused('http://inner.example/a.png')
        names['inner.example'] = [[PUBLIC, inner]]
        assert 'not public' in refused('http://inner.example/a.png')
    assert not connected and not web.asked


def test_a_name_that_changes_its_address_gains_nothing(web, internet):
    """DNS rebinding: looked up once, connected to what was looked at."""
    names, connected = internet
    names['rebinding.example'] = [[PUBLIC], ['127.0.0.1']]
    assert read('http://rebinding.example/a.png') == png()
    assert connected == [PUBLIC]


def test_redirects_are_followed_and_looked_at(web, internet):
    def to(url):
        return 302, {'Location': url}, b''

    web.pages |= {
        '/once': to('/a.png'),
        '/away': to(f'{web.url}/a.png'),
        '/metadata': to('http://169.254.169.254/latest/meta-data/'),
        '/file': to('file:///etc/passwd'),
        '/round': to('/round'),
    }
    base = 'http://pictures.example'
    assert read(base + '/once') == png()
    assert 'not public' in refused(base + '/away')
    assert 'not public' in refused(base + '/metadata')
    assert 'no address that is fetched' in refused(base + '/file')
    assert 'more than 3 redirects' in refused(base + '/round')
    assert [path for path, _ in web.asked].count('/round') == 4
    assert {host for _, host in web.asked} == {'pictures.example'}


def test_an_operator_may_name_hosts(web):
    only = ImageSources(hosts=['127.0.0.1'])
    assert read(web.url + '/a.png', only) == png()
    assert 'not fetched from' in refused('http://example.com/a.png', only)
    nowhere = ImageSources(hosts=[])
    assert 'not fetched from' in refused(web.url + '/a.png', nowhere)
    assert len(web.asked) == 1


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
    try:
        for byte in b'HTTP/1.1 200 OK\r\n' + b'X: y\r\n' * 100:
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


def test_bad_servers_are_told(web):
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
    limits = ImageLimits(bytes=5000, seconds=0.5)
    sources = ImageSources(limits, hosts=['127.0.0.1'])

    def why(path):
        return refused(web.url + path, sources)

    assert 'at most 5,000 are allowed' in why('/endless')
    began = time.monotonic()
    assert 'did not come within 0.5 seconds' in why('/slow')
    assert time.monotonic() - began < 2
    assert 'cannot be fetched' in why('/garbage')
    assert 'cannot be fetched' in why('/cut')
    assert 'answered with status 404' in why('/gone')
    assert 'packed' in why('/packed')
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
def test_odd_addresses_are_told(url):
    refused(url)


def test_a_header_cannot_be_smuggled_in(web):
    sources = ImageSources(hosts=['127.0.0.1'])
    for ending in ('\r\nX: y', '%0d%0aX: y', ' HTTP/1.1\nX: y'):
        web.pages = dict.fromkeys(
            ('/a.pngX:%20y', '/a.png%0d%0aX:%20y', '/a.png%20HTTP/1.1X:%20y'),
            (200, {}, png()),
        )
        assert read(web.url + '/a.png' + ending, sources) == png()
    assert len(web.asked) == 3
