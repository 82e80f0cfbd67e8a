# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Check the ``Host`` and ``Origin`` headers of requests.

A web page of another site can make a browser send requests to this server:
directly, with the page's ``Origin``, or after DNS rebinding, with the page's
name as ``Host``. Both are refused here, for the API and for the chat page.
"""

import ipaddress
import re
import socket
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from .errors import ApiError, format_value, refuse

_HOST = re.compile(r'(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(\d{1,5}))?')
_PORTS = {'http': 80, 'https': 443}


class HostRules:
    """The accepted values of the headers ``Host`` and ``Origin``.

    Every IP address is accepted as ``Host``, because a rebound request has a
    name there, and so are ``localhost`` and its subdomains.

    Args:
        names: Further host names; ``*.example.com`` accepts the subdomains
            of a domain, ``*`` every name.
        origins: Web pages of other sites that may call the API, such as
            ``https://chat.example.com``; also ``null`` and the origins of
            desktop programs and browser extensions.

    Raises:
        ValueError: A name or an origin is malformed.
    """

    def __init__(
        self, names: Collection[str] = (), origins: Collection[str] = ()
    ) -> None:
        self.names = {'localhost', '*.localhost'}
        for name in names:
            host = name.lower().rstrip('.')
            if host != '*' and not _HOST.fullmatch(host.removeprefix('*.')):
                raise ValueError(
                    f'{name!r} is not a host name; expected a name such as '
                    'chat.example.com, without scheme and path.'
                )
            self.names.add(host.partition(':')[0] if '[' not in host else host)
        self.origins = frozenset(_origin(text) for text in origins)

    def accepts_host(self, host: str) -> bool:
        """Whether requests with this ``Host`` are accepted."""
        name, _ = _split(host)
        if name is None:
            return False
        if '*' in self.names or name in self.names or _is_address(name):
            return True
        parents = name.split('.')
        return any(
            '*.' + '.'.join(parents[i:]) in self.names
            for i in range(1, len(parents))
        )

    def accepts_origin(self, origin: str, host: str) -> bool:
        """Whether a page of this origin may send requests.

        Args:
            origin: The header ``Origin``.
            host: The header ``Host`` of the same request.
        """
        try:
            origin = _origin(origin)
        except ValueError:
            return False
        if origin in self.origins:
            return True
        scheme, _, address = origin.partition('://')
        port = _PORTS.get(scheme)  # None for "null" and extensions
        return port is not None and _split(address, port) == _split(host, port)


class HostGuard:
    """Refuses requests by their ``Host`` and ``Origin``, as a middleware.

    Args:
        app: The wrapped ASGI application.
        rules: The accepted values.
    """

    def __init__(self, app: ASGIApp, rules: HostRules) -> None:
        self.app = app
        self.rules = rules

    async def __call__(
        self, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Pass a request on, or refuse it."""
        if scope['type'] == 'lifespan':
            await self.app(scope, receive, send)
            return
        error = self._check(scope)
        if error is None:
            await self.app(scope, receive, send)
        elif scope['type'] == 'websocket':
            await send(dict(type='websocket.close', code=1008))
        else:
            await refuse(error, scope, receive, send)

    def _check(self, scope: Scope) -> ApiError | None:
        """Check the headers of a request; returns the error, or None."""
        headers: dict[bytes, list[str]] = {}
        for name, value in scope['headers']:
            headers.setdefault(name.lower(), []).append(
                value.decode('latin-1').strip()
            )
        hosts = headers.get(b'host', [])
        if len(hosts) != 1 or not self.rules.accepts_host(hosts[0]):
            found = format_value(', '.join(hosts)) if hosts else 'missing'
            return ApiError(
                403,
                f'the header Host is {found}, which is not a name of this '
                'server; use its IP address or localhost, or start the '
                'server with --allowed-host NAME.',
                code='host_not_allowed',
            )
        kind = headers.get(b'content-type', [''])[0].partition(';')[0]
        if (
            scope.get('method') == 'POST'
            and scope['path'].startswith('/v1/')
            and kind.strip().lower() != 'application/json'
        ):
            return None  # the API refuses it with status 415
        for origin in headers.get(b'origin', []):
            if not self.rules.accepts_origin(origin, hosts[0]):
                return ApiError(
                    403,
                    f'a web page of {format_value(origin)} may not use this '
                    'server; start the server with --allowed-origin to allow '
                    'it.',
                    code='origin_not_allowed',
                )
        return None


def own_names(bound: str) -> list[str]:
    """The host names of this machine that clients may use.

    Args:
        bound: The host that the server was started with.

    Returns:
        The bound name; where other machines can connect, also the machine's
        own name and its ``.local`` form.
    """
    names = [] if not bound or _is_address(bound) else [bound]
    if not is_loopback(bound):
        name = socket.gethostname()
        names += [name, name.partition('.')[0] + '.local']
    return [name for name in names if _HOST.fullmatch(name)]


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to a host."""
    try:
        return ipaddress.ip_address(host.strip('[]')).is_loopback
    except ValueError:
        return host.lower() == 'localhost'


def _split(host: str, port: int | None = None) -> tuple[str | None, object]:
    """Split a host into its lower-case name and port; None if malformed."""
    found = _HOST.fullmatch(host)
    if not found:
        return None, object()  # equal to nothing
    return found[1].lower().rstrip('.'), int(found[2] or 0) or port


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip('[]'))
    except ValueError:
        return False
    return True


def _origin(text: str) -> str:
    """Normalise an origin.

    Raises:
        ValueError: It is not an origin.
    """
    text = text.strip()
    if text == 'null':
        return text
    try:
        parts = urlsplit(text.lower())
        port = parts.port
    except ValueError:
        parts, port = urlsplit(''), None
    found = _HOST.fullmatch(parts.netloc)
    if (
        not parts.scheme
        or not found
        or parts.path not in ('', '/')
        or parts.query
        or parts.fragment
    ):
        raise ValueError(
            f'{text!r} is not an origin; expected a scheme and a host such as '
            'https://chat.example.com, without a path.'
        )
    if port in (None, _PORTS.get(parts.scheme)):
        return f'{parts.scheme}://{found[1]}'
    return f'{parts.scheme}://{found[1]}:{port}'
