# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Fetching a picture from the public web, for somebody who is not trusted.

Whoever asks must not be able to reach with our hands what only we can reach
(SSRF): names are resolved here, every address of a name has to be public,
and the connection goes to the very address that was looked at, so a name
that changes its address in between (DNS rebinding) gains nothing. The same
holds after each redirect. Proxies of the environment are not used.
"""

import asyncio
import ipaddress
import ssl
from collections.abc import Collection
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from ..serving.http.request_values import ascii_of
from .resolver import Resolver

REDIRECTS = 3
NAME_SECONDS = 5.0  # for a name server to answer
_CHUNK = 2**16
_RESOLVER = Resolver()
_NAT64 = ipaddress.ip_network('64:ff9b::/96')
# What Python's is_global lets through, as tables differ between its versions:
# protocol assignments (Oracle's metadata), Teredo and the like, local NAT64,
# addresses for books, segment routing.
_INNER = [
    ipaddress.ip_network(network)
    for network in (
        '192.0.0.0/24',
        '2001::/23',
        '64:ff9b:1::/48',
        '3fff::/20',
        '5f00::/16',
    )
]


class ImageError(ValueError):
    """An image that is refused or cannot be read; its text says why."""


async def fetch_picture(
    url: str,
    max_bytes: int,
    seconds: float,
    hosts: Collection[str] | None = None,
) -> bytes:
    """The file behind a URL.

    Args:
        url: Of http or https.
        max_bytes: The most bytes of the file.
        seconds: The longest that all of it may take, names and redirects
            included.
        hosts: The only hosts to fetch from, which may then have private
            addresses as well; empty: fetch nowhere; None: from any host
            whose addresses are all public.

    Raises:
        ImageError: It is refused, too large, too slow or not there.
    """
    try:
        return await asyncio.wait_for(
            _Fetch(max_bytes, hosts).follow(url), seconds
        )
    except asyncio.TimeoutError:
        raise ImageError(
            f'{brief(url)} did not come within {seconds:g} seconds; send the '
            'picture as a data URL.'
        ) from None


class _Fetch:
    """One picture on its way."""

    def __init__(self, max_bytes: int, hosts: Collection[str] | None) -> None:
        self.max_bytes = max_bytes
        self.hosts = hosts

    async def follow(self, url: str) -> bytes:
        """The bytes behind a URL of the web, redirects followed."""
        for _ in range(REDIRECTS + 1):
            parts = _split(url)
            addresses = await self._addresses(parts)
            found = await self._get(parts, addresses)
            if isinstance(found, bytes):
                return found
            url = urljoin(url, found)
        raise ImageError(
            f'{brief(url)} is the end of more than {REDIRECTS} redirects; '
            "give the picture's own address."
        )

    async def _addresses(self, parts: SplitResult) -> list[str]:
        """Where a host is, if it may be asked."""
        host = (parts.hostname or '').rstrip('.').lower()
        if self.hosts is not None and host not in self.hosts:
            raise ImageError(
                f'pictures are not fetched from {brief(host)} here; send '
                'the picture as a data URL.'
            )
        try:
            addresses = await _RESOLVER.addresses(
                host, parts.port or _port(parts), NAME_SECONDS
            )
        except (OSError, UnicodeError) as error:
            raise ImageError(
                f'the host {brief(host)} is not known ({_reason(error)}); '
                'check the address, or send the picture as a data URL.'
            ) from error
        if self.hosts is None:
            for address in addresses:
                if not is_public(address):
                    raise ImageError(
                        f'{brief(host)} has an address that is not public; '
                        'pictures are fetched from the public web alone: '
                        'send this one as a data URL.'
                    )
        return addresses

    async def _get(
        self, parts: SplitResult, addresses: list[str]
    ) -> 'bytes | str':
        """Ask the first address that answers: a body, or where to go on."""
        context = ssl.create_default_context() if _secure(parts) else None
        error: OSError | None = None
        for address in addresses:
            try:
                reader, writer = await asyncio.open_connection(
                    address,
                    parts.port or _port(parts),
                    ssl=context,
                    server_hostname=parts.hostname if context else None,
                )
            except OSError as reason:
                error = reason
                continue
            try:
                return await self._exchange(parts, reader, writer)
            except (OSError, EOFError) as reason:
                error = OSError(str(reason))
                break
            finally:
                writer.close()
        raise ImageError(
            f'{brief(parts.geturl())} cannot be fetched ({_reason(error)}); '
            'check the address, or send the picture as a data URL.'
        ) from error

    async def _exchange(
        self,
        parts: SplitResult,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> 'bytes | str':
        """One GET over an open connection."""
        import h11  # comes with uvicorn

        connection = h11.Connection(h11.CLIENT)
        target = (parts.path or '/') + ('?' + parts.query) * bool(parts.query)
        try:
            request = h11.Request(
                method='GET',
                target=quote(target, safe="%/:?=&~#+!$,;'@()*[]"),
                headers=[
                    ('Host', parts.netloc.encode('idna').decode()),
                    ('User-Agent', 'minigpt4'),
                    ('Accept', 'image/*'),
                    ('Accept-Encoding', 'identity'),
                    ('Connection', 'close'),
                ],
            )
            writer.write(connection.send(request))
            writer.write(connection.send(h11.EndOfMessage()))
            await writer.drain()
            body = bytearray()
            while True:
                event = connection.next_event()
                if event is h11.NEED_DATA:
                    connection.receive_data(await reader.read(_CHUNK))
                elif isinstance(event, h11.Response):
                    onward = self._judged(parts, event)
                    if onward is not None:
                        return onward
                elif isinstance(event, h11.Data):
                    body += event.data
                    if len(body) > self.max_bytes:
                        raise too_large(
                            brief(parts.geturl()), len(body), self.max_bytes
                        )
                elif isinstance(event, h11.EndOfMessage):
                    return bytes(body)
                elif isinstance(event, h11.ConnectionClosed):
                    raise EOFError('the connection was closed')
        except (h11.ProtocolError, UnicodeError) as error:
            raise ImageError(
                f'{brief(parts.geturl())} cannot be fetched '
                f'({_reason(error)}); send the picture as a data URL.'
            ) from error

    def _judged(self, parts: SplitResult, response) -> str | None:
        """Where a response leads to, or None if its body is the picture."""
        headers = {
            name.decode('latin-1').lower(): value.decode('latin-1')
            for name, value in response.headers
        }
        url = brief(parts.geturl())
        status = response.status_code
        if status in (301, 302, 303, 307, 308) and headers.get('location'):
            return headers['location']
        if status != 200:
            raise ImageError(
                f'{url} answered with status {status}; expected 200 and a '
                'picture.'
            )
        encoding = headers.get('content-encoding', 'identity')
        if encoding.lower() not in ('', 'identity'):
            # unpacking is where a small body becomes a large one
            raise ImageError(
                f'{url} came packed with {brief(encoding)} unasked; send '
                'the picture as a data URL.'
            )
        length = headers.get('content-length', '')
        if length.isdecimal() and int(length) > self.max_bytes:
            raise too_large(url, int(length), self.max_bytes)
        return None


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet.

    Private, loopback, link-local (where clouds keep their metadata), shared,
    reserved and multicast addresses do not; nor does an IPv6 address that
    carries such an IPv4 address inside.
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
    if ip.is_multicast or ip.is_reserved or any(ip in net for net in _INNER):
        return False
    return ip.is_global


def _split(url: str) -> SplitResult:
    """A web address in parts."""
    try:
        parts = urlsplit(url)
        port = parts.port  # a wrong one raises here
    except ValueError as error:
        raise ImageError(
            f'{brief(url)} is not an address ({_reason(error)}); expected '
            'https://host/picture.png or the like.'
        ) from error
    if parts.scheme not in ('http', 'https') or not parts.hostname:
        raise ImageError(
            f'{brief(url)} is no address that is fetched; expected '
            'https://host/picture.png or the like.'
        )
    if parts.username is not None or port == 0:
        raise ImageError(
            f'{brief(parts.hostname)} is asked for with a name or a port '
            'that is refused; expected https://host/picture.png.'
        )
    return parts


def _reason(error: BaseException | None) -> str:
    """The text of an error that another host can have a part in."""
    return brief(str(error))


def _secure(parts: SplitResult) -> bool:
    return parts.scheme == 'https'


def _port(parts: SplitResult) -> int:
    return 443 if _secure(parts) else 80


def too_large(what: str, size: int, most: int) -> ImageError:
    """The refusal of a file for its size."""
    return ImageError(
        f'{what} has {size:,} bytes or more; at most {most:,} are allowed: '
        'send a smaller picture.'
    )


def brief(text: str) -> str:
    """A text of the request as an error may show it: short, in ASCII."""
    return ascii_of(text if len(text) <= 60 else text[:57] + '...')
