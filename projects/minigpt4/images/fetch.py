# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Download an image from a URL that an untrusted client sent.

SSRF protection: a client must not reach through this server what only the
server can reach. Every address of a host name has to be public, and the
connection goes to an address that was checked, so a name that changes its
address after the check (DNS rebinding) gains nothing. Redirects pass the
same check. Proxies of the environment are not used.

httpcore rather than aiohttp or httpx: its network backend is the only place
that opens connections, whereas aiohttp does not ask its resolver for IP
addresses, and httpx does not accept a backend.
"""

import asyncio
import ipaddress
import ssl
from collections.abc import Collection, Iterable
from urllib.parse import SplitResult, quote, urljoin, urlsplit

import httpcore

from ..utils.short_text import shorten
from .errors import ImageError, too_large
from .host_lookup import Resolver

MAX_REDIRECTS = 3
RESOLVE_SECONDS = 5.0  # for a name server to answer
USE_DATA_URL = 'send the image as a data URL'
_EXPECTED_URL = 'expected https://host/image.png or the like'
_REDIRECTS = (301, 302, 303, 307, 308)
_PORTS = {'http': 80, 'https': 443}
_HEADERS = [
    (b'User-Agent', b'minigpt4'),
    (b'Accept', b'image/*'),
    (b'Accept-Encoding', b'identity'),
    (b'Connection', b'close'),
]
_NAT64 = ipaddress.ip_network('64:ff9b::/96')
# Networks that is_global of some Python versions accepts: protocol
# assignments (Oracle's metadata), Teredo and others, local NAT64,
# documentation, segment routing.
_NOT_PUBLIC = [
    ipaddress.ip_network(network)
    for network in (
        '192.0.0.0/24',
        '2001::/23',
        '64:ff9b:1::/48',
        '3fff::/20',
        '5f00::/16',
    )
]


class CheckedBackend(httpcore.AsyncNetworkBackend):
    """Opens connections to checked addresses only.

    Args:
        hosts: See :class:`ImageFetcher`.
        any_host: See :class:`ImageFetcher`.
        fallback: See :class:`ImageFetcher`.
        resolver: Looks up host names.
        backend: Connects to an IP address.
    """

    def __init__(
        self,
        hosts: Collection[str] | None,
        any_host: bool,
        fallback: str,
        resolver: Resolver,
        backend: httpcore.AsyncNetworkBackend,
    ) -> None:
        self.hosts = hosts
        self.any_host = any_host
        self.fallback = fallback
        self.resolver = resolver
        self.backend = backend

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address of a host that accepts.

        Raises:
            ImageError: The host is unknown or not allowed.
            httpcore.ConnectError: No address accepts a connection.
        """
        error: Exception = httpcore.ConnectError('the host has no address')
        for address in await self._checked_addresses(host, port):
            try:
                return await self.backend.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as reason:
                error = reason
        raise error

    async def _checked_addresses(self, host: str, port: int) -> list[str]:
        """Look up a host; refuse it unless all addresses are allowed."""
        host = host.rstrip('.').lower()
        listed = self.any_host or host in (self.hosts or ())
        if self.hosts is not None and not listed:
            raise ImageError(
                f'images are not fetched from {shorten(host)} here',
                self.fallback,
            )
        try:
            addresses = await self.resolver.addresses(
                host, port, RESOLVE_SECONDS
            )
        except (OSError, UnicodeError) as error:
            raise _unknown_host(host, error, self.fallback) from error
        if not listed and not all(map(is_public, addresses)):
            raise ImageError(
                f'{shorten(host)} has an address that is not public; images '
                'are fetched from the public web only',
                self.fallback,
            )
        return addresses


class ImageFetcher:
    """Downloads images with limits on bytes, time, redirects and hosts.

    Args:
        max_bytes: The maximum number of bytes of a file.
        seconds: The maximum time of a download, look-ups and redirects
            included.
        hosts: The only hosts that are allowed; their addresses may be
            private. An empty collection allows none; None allows every host
            whose addresses are all public.
        any_host: Allow every host, private ones included.
        fallback: The hint of errors: how else to pass the image.
        resolver: Looks up host names.
        backend: Connects to the addresses that were checked.
    """

    def __init__(
        self,
        max_bytes: int,
        seconds: float,
        hosts: Collection[str] | None = None,
        *,
        any_host: bool = False,
        fallback: str = USE_DATA_URL,
        resolver: Resolver | None = None,
        backend: httpcore.AsyncNetworkBackend | None = None,
    ) -> None:
        self.max_bytes = max_bytes
        self.seconds = seconds
        self.fallback = fallback
        self._backend = CheckedBackend(
            None if hosts is None else {host.lower() for host in hosts},
            any_host,
            fallback,
            resolver or Resolver(),
            backend or httpcore.AnyIOBackend(),
        )

    async def fetch(self, url: str) -> bytes:
        """Download the file at a URL.

        Args:
            url: An http or https URL.

        Raises:
            ImageError: It is refused, too large, too slow or unavailable.
        """
        try:
            return await asyncio.wait_for(self._follow(url), self.seconds)
        except asyncio.TimeoutError:
            raise ImageError(
                f'{shorten(url)} did not arrive within {self.seconds:g} '
                'seconds',
                self.fallback,
            ) from None

    async def _follow(self, url: str) -> bytes:
        """Download the file at a URL, redirects followed."""
        for _ in range(MAX_REDIRECTS + 1):
            response = await self._get(_split(url))
            if isinstance(response, bytes):
                return response
            url = urljoin(url, response)
        raise ImageError(
            f'{shorten(url)} follows more than {MAX_REDIRECTS} redirects',
            'send the final URL of the image',
        )

    async def _get(self, parts: SplitResult) -> bytes | str:
        """Send one GET; returns a body, or the URL of a redirect."""
        url = shorten(parts.geturl())
        try:
            host = (parts.hostname or '').encode('idna')
            authority = parts.netloc.encode('idna')
        except UnicodeError as error:
            raise _unknown_host(
                parts.hostname or '', error, self.fallback
            ) from error
        path = (parts.path or '/') + ('?' + parts.query) * bool(parts.query)
        secure = parts.scheme == 'https'
        try:
            async with (
                httpcore.AsyncConnectionPool(
                    ssl_context=ssl.create_default_context()
                    if secure
                    else None,
                    max_keepalive_connections=0,
                    network_backend=self._backend,
                ) as pool,
                pool.stream(
                    'GET',
                    httpcore.URL(
                        scheme=parts.scheme.encode(),
                        host=host.rstrip(b'.'),
                        port=parts.port or _PORTS[parts.scheme],
                        target=quote(
                            path, safe="%/:?=&~#+!$,;'@()*[]"
                        ).encode(),
                    ),
                    headers=[(b'Host', authority), *_HEADERS],
                ) as response,
            ):
                return await self._read(url, response)
        except (
            httpcore.NetworkError,
            httpcore.ProtocolError,
            httpcore.TimeoutException,
        ) as error:
            raise ImageError(
                f'{url} cannot be fetched ({_cause(error)})',
                f'check the URL, or {self.fallback}',
            ) from error

    async def _read(
        self, url: str, response: httpcore.Response
    ) -> bytes | str:
        """Read a response; returns its body, or the URL of a redirect."""
        headers = {
            name.decode('latin-1').lower(): value.decode('latin-1')
            for name, value in response.headers
        }
        if response.status in _REDIRECTS and headers.get('location'):
            return headers['location']
        if response.status != 200:
            raise ImageError(
                f'{url} answered with status {response.status}',
                'expected 200 and an image',
            )
        encoding = headers.get('content-encoding', 'identity')
        if encoding.lower() not in ('', 'identity'):
            # decompression can turn a small body into a huge one
            raise ImageError(
                f'{url} is compressed ({shorten(encoding)}) although '
                'identity was requested',
                self.fallback,
            )
        length = headers.get('content-length', '')
        if length.isdecimal() and int(length) > self.max_bytes:
            raise too_large(url, int(length), self.max_bytes)
        body = bytearray()
        async for chunk in response.aiter_stream():
            body += chunk
            if len(body) > self.max_bytes:
                raise too_large(url, len(body), self.max_bytes)
        return bytes(body)


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet.

    Private, loopback, link-local (cloud metadata), shared, reserved and
    multicast addresses do not, nor does an IPv6 address that contains such
    an IPv4 address.
    """
    ip = ipaddress.ip_address(address.partition('%')[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if ip.is_site_local or int(ip) < 2**32:
            return False
    if ip.is_multicast or ip.is_reserved:
        return False
    return ip.is_global and not any(ip in network for network in _NOT_PUBLIC)


def _split(url: str) -> SplitResult:
    """Split a URL, and refuse one that is not fetched."""
    try:
        parts = urlsplit(url)
        port = parts.port  # raises for an invalid port
    except ValueError as error:
        raise ImageError(
            f'{shorten(url)} is not a URL ({_cause(error)})', _EXPECTED_URL
        ) from error
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ImageError(
            f'{shorten(url)} is not a URL that is fetched', _EXPECTED_URL
        )
    if parts.username is not None or port == 0:
        raise ImageError(
            f'{shorten(parts.hostname)} has a user name or a port that is '
            'refused',
            'expected https://host/image.png',
        )
    return parts


def _unknown_host(
    host: str, error: BaseException, fallback: str
) -> ImageError:
    """Build the error of a host name that has no address."""
    return ImageError(
        f'the host {shorten(host)} is not known ({_cause(error)})',
        f'check the URL, or {fallback}',
    )


def _cause(error: BaseException) -> str:
    """The text of an error's first cause, which another host may control."""
    # httpcore raises its errors again "from None", which drops the cause
    while cause := error.__cause__ or error.__context__:
        error = cause
    return shorten(str(error) or type(error).__name__)
