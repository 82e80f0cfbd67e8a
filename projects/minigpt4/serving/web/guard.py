# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Check the requests of the web page before Gradio receives them.

Gradio hashes every file that a question names, in the event loop and without
checking its type, so paths are checked here. Routes of Gradio that the page
does not use are not served.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request

from ..http.errors import drain_body, handle_http_error
from ..http.hosts import HostRules
from .event_checks import EventCheck
from .uploads import UploadError, Uploads

_API = '/gradio_api'
_UPLOAD = f'{_API}/upload'
_JOIN = f'{_API}/queue/join'
_FILE = f'{_API}/file='
_GET = re.compile(
    r'/|/(config|theme\.css|favicon\.ico|manifest\.json|robots\.txt|user|'
    r'token|login_check|logout|pwa_icon(/\d+)?|(assets|static|svelte)/.+)|'
    rf'{_API}/(user|token|login_check|app_id|info|startup-events|theme\.css|'
    r'queue/data|upload_progress|heartbeat/\w{1,64}|file=.+)',
    re.ASCII,
)
# routes of the HTTP API, which get here with another method
_CHAT_API = re.compile(r'/v1/(chat/completions|models(/.*)?)')
_POST = re.compile(rf'/login|{_API}/(upload|queue/join|cancel|reset)')
_SESSION_HASH = re.compile(r'\w{1,64}', re.ASCII)
_FORM_BYTES = 2**16  # of a small body, and of a form around a file


class PageGuard:
    """ASGI middleware that refuses requests that the page does not send.

    Args:
        app: Gradio's application.
        uploads: The uploaded files.
        events: The check of each event of the page, by its number
            (``fn_index``).
        max_files: The most files of one upload.
        max_json_bytes: The most bytes of a question without its files.
    """

    def __init__(
        self,
        app: Any,
        uploads: Uploads,
        events: Mapping[int, EventCheck],
        max_files: int,
        max_json_bytes: int,
    ) -> None:
        self.app = app
        self.uploads = uploads
        self.events = events
        self.max_files = max_files
        self.max_json_bytes = max_json_bytes
        self._rules = HostRules()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Forward a request to Gradio, or refuse it."""
        if scope['type'] == 'lifespan':
            await self.app(scope, receive, send)
            return
        if scope['type'] != 'http':  # the page opens no WebSocket
            await send(dict(type='websocket.close', code=1008))
            return
        more_body = True  # whether a part of the body has not been received

        async def tracked_receive() -> dict[str, Any]:
            nonlocal more_body
            message = await receive()
            more_body = message.get('more_body', False)
            return message

        try:
            await self._handle(scope, tracked_receive, send)
        except _Refusal as refusal:
            if more_body:  # so that the client can read the response
                await drain_body(receive)
            await _respond(refusal.status, str(refusal), send)

    async def _handle(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope['path'].removesuffix('/') or '/'
        method = scope['method']
        if path == '/v1' or path.startswith('/v1/'):  # no route of the API
            status = 405 if _CHAT_API.fullmatch(path) else 404
            response = await handle_http_error(
                Request(scope), HTTPException(status)
            )
            await response(scope, receive, send)
            return
        if method == 'POST' and _POST.fullmatch(path):
            self._check_origin(scope)
            if path == _UPLOAD:
                await self._handle_upload(scope, receive, send)
            else:
                await self._handle_json(path, scope, receive, send)
        elif method in ('GET', 'HEAD') and _GET.fullmatch(path):
            if path.startswith(_FILE):
                try:
                    self.uploads.check(path.removeprefix(_FILE))
                except UploadError as error:
                    raise _Refusal(404, 'there is no such file.') from error
            await self.app(scope, receive, send)
        else:
            raise _Refusal(404, f'the page has no {method} here.')

    def _check_origin(self, scope: Any) -> None:
        """Refuse a request from a page of another site."""
        headers = {k.lower(): v.decode('latin-1') for k, v in scope['headers']}
        origin = headers.get(b'origin')
        if origin is not None and not self._rules.accepts_origin(
            origin, headers.get(b'host', '')
        ):
            raise _Refusal(403, 'a page of another site may not do this.')

    async def _handle_upload(
        self, scope: Any, receive: Any, send: Any
    ) -> None:
        """Forward an upload of limited size."""
        limit = self.max_files * (self.uploads.max_file_bytes + _FORM_BYTES)
        declared = _content_length(scope)
        size = limit if declared is None else declared
        if size > limit:
            raise _Refusal(
                413,
                f'the upload has {size:,} bytes; at most {limit:,} are '
                'allowed.',
            )
        client = (scope.get('client') or ('',))[0]
        received = 0

        async def limited_receive() -> dict[str, Any]:
            nonlocal received
            message = await receive()
            received += len(message.get('body', b''))
            if received > size:  # the request declared no length
                raise _Refusal(
                    413, f'the upload has more than {limit:,} bytes.'
                )
            return message

        response = bytearray()
        status = 0

        async def tracked_send(message: dict[str, Any]) -> None:
            nonlocal status
            if message['type'] == 'http.response.start':
                status = message['status']
            else:
                response.extend(message.get('body', b''))
                if status == 200 and not message.get('more_body'):
                    self.uploads.add(client, _uploaded_paths(bytes(response)))
            await send(message)

        try:
            with self.uploads.reserve(client, size):
                await self.app(
                    _without_compression(scope), limited_receive, tracked_send
                )
        except UploadError as error:
            raise _Refusal(507, str(error)) from error

    async def _handle_json(
        self, path: str, scope: Any, receive: Any, send: Any
    ) -> None:
        """Read a small body, check it, and forward it."""
        limit = self.max_json_bytes if path == _JOIN else _FORM_BYTES
        body = bytearray()
        more_body = True
        while more_body:
            message = await receive()
            if message['type'] != 'http.request':
                return
            body += message.get('body', b'')
            more_body = message.get('more_body', False)
            if len(body) > limit:
                raise _Refusal(
                    413, f'the question has more than {limit:,} bytes.'
                )
        if path != '/login':
            content = self._parse_json(bytes(body))
            if path == _JOIN:
                self._check_event(content)
        forwarded = False

        async def receive_again() -> dict[str, Any]:
            nonlocal forwarded
            if forwarded:
                return await receive()
            forwarded = True
            return dict(type='http.request', body=bytes(body), more_body=False)

        await self.app(scope, receive_again, send)

    def _check_event(self, content: dict[str, Any]) -> None:
        """Refuse an event that the page does not send."""
        index = content.get('fn_index')
        if type(index) is not int or index not in self.events:
            raise _Refusal(400, 'fn_index is not an event of the page.')
        if content.get('batched'):
            raise _Refusal(400, 'batched is not supported.')
        try:
            self.events[index](content.get('data'), content.get('event_data'))
        except ValueError as error:
            raise _Refusal(400, str(error)) from error

    def _parse_json(self, body: bytes) -> dict[str, Any]:
        """Parse a body; refuse paths that are not uploaded files."""
        try:
            content = json.loads(body)
        except (RecursionError, ValueError) as error:
            raise _Refusal(400, 'the question is not JSON.') from error
        if not isinstance(content, dict):
            raise _Refusal(400, 'the question is not a JSON object.')
        session_hash = content.get('session_hash')
        if session_hash is not None and not (
            isinstance(session_hash, str)
            and _SESSION_HASH.fullmatch(session_hash)
        ):
            raise _Refusal(400, 'session_hash is not a name of a session.')
        pending: list[Any] = [content]
        while pending:  # not recursive, because the depth has no limit
            value = pending.pop()
            if isinstance(value, dict):
                if 'path' in value:
                    try:
                        self.uploads.check(value['path'])
                    except UploadError as error:
                        raise _Refusal(400, str(error)) from error
                pending.extend(value.values())
            elif isinstance(value, list):
                pending.extend(value)
        return content


class _Refusal(Exception):
    """A request that is not forwarded.

    Args:
        status: HTTP status.
        reason: One sentence.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


async def _respond(status: int, reason: str, send: Any) -> None:
    """Send an error in the format that Gradio's page displays."""
    body = json.dumps(dict(detail=reason)).encode()
    await send(
        dict(
            type='http.response.start',
            status=status,
            headers=[
                (b'content-type', b'application/json'),
                (b'content-length', str(len(body)).encode()),
            ],
        )
    )
    await send(dict(type='http.response.body', body=body))


def _content_length(scope: Any) -> int | None:
    """The Content-Length of a request; None without one."""
    for name, value in scope['headers']:
        if name.lower() == b'content-length' and value.isdigit():
            return int(value)
    return None


def _without_compression(scope: Any) -> dict[str, Any]:
    """A scope without Accept-Encoding, so that the response is readable."""
    return {
        **scope,
        'headers': [
            (name, value)
            for name, value in scope['headers']
            if name.lower() != b'accept-encoding'
        ],
    }


def _uploaded_paths(response: bytes) -> list[str]:
    """The paths in Gradio's response to an upload."""
    try:
        paths = json.loads(response)
    except ValueError:
        return []
    if not isinstance(paths, list):
        return []
    return [path for path in paths if isinstance(path, str)]
