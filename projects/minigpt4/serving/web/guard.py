# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""What reaches Gradio: the routes that the page uses, with checked bodies.

Gradio hashes every file that a question names, in the event loop and without
looking at its kind, so paths are checked before. Routes of Gradio that the
page does not use are not served.
"""

import json
import re
from collections.abc import Collection
from typing import Any

from ..http.errors import drain_body
from ..http.hosts import HostRules
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
_POST = re.compile(rf'/login|{_API}/(upload|queue/join|cancel|reset)')
_SESSION = re.compile(r'\w{1,64}', re.ASCII)
_FORM_BYTES = 2**16  # of a small body, and of the parts around a file


class PageGuard:
    """Refuses what the page does not send, as an ASGI middleware.

    Args:
        app: Gradio's application.
        uploads: The uploaded files.
        events: The numbers of the page's events (``Blocks.fns``).
        most_files: The most files of one upload.
        most_json_bytes: The most of a question without its files.
    """

    def __init__(
        self,
        app,
        uploads: Uploads,
        events: Collection[int],
        most_files: int,
        most_json_bytes: int,
    ) -> None:
        self.app = app
        self.uploads = uploads
        self.events = events
        self.most_files = most_files
        self.most_json_bytes = most_json_bytes
        self._rules = HostRules()

    async def __call__(self, scope, receive, send) -> None:
        """Pass a request on, or refuse it."""
        if scope['type'] == 'lifespan':
            await self.app(scope, receive, send)
            return
        if scope['type'] != 'http':  # the page opens no WebSocket
            await send(dict(type='websocket.close', code=1008))
            return
        more = True  # of the body is to come

        async def noted() -> dict:
            nonlocal more
            message = await receive()
            more = message.get('more_body', False)
            return message

        try:
            await self._pass(scope, noted, send)
        except _Refused as refused:
            if more:
                await drain_body(receive)
            await _answer(refused.status, str(refused), send)

    async def _pass(self, scope, receive, send) -> None:
        path = scope['path'].removesuffix('/') or '/'
        method = scope['method']
        if method == 'POST' and _POST.fullmatch(path):
            self._check_origin(scope)
            if path == _UPLOAD:
                await self._upload(scope, receive, send)
            else:
                await self._small(path, scope, receive, send)
        elif method in ('GET', 'HEAD') and _GET.fullmatch(path):
            if path.startswith(_FILE):
                try:
                    self.uploads.check(path.removeprefix(_FILE))
                except UploadError as error:
                    raise _Refused(404, 'there is no such file.') from error
            await self.app(scope, receive, send)
        else:
            raise _Refused(404, f'the page has no {method} here.')

    def _check_origin(self, scope) -> None:
        """Refuse a page of another site."""
        headers = {k.lower(): v.decode('latin-1') for k, v in scope['headers']}
        origin = headers.get(b'origin')
        if origin is not None and not self._rules.accepts_origin(
            origin, headers.get(b'host', '')
        ):
            raise _Refused(403, 'a page of another site may not do this.')

    async def _upload(self, scope, receive, send) -> None:
        """Pass an upload of limited size on."""
        most = self.most_files * self.uploads.most_file_bytes
        most += self.most_files * _FORM_BYTES
        size = _length(scope)
        size = most if size is None else size
        if size > most:
            raise _Refused(
                413, f'the upload has {size:,} bytes; at most {most:,} may be.'
            )
        client = (scope.get('client') or ('',))[0]
        taken = 0

        async def limited() -> dict:
            nonlocal taken
            message = await receive()
            taken += len(message.get('body', b''))
            if taken > size:  # of a body without a length
                raise _Refused(
                    413, f'the upload has more than {most:,} bytes.'
                )
            return message

        answer = bytearray()
        status = 0

        async def noted(message) -> None:
            nonlocal status
            if message['type'] == 'http.response.start':
                status = message['status']
            else:
                answer.extend(message.get('body', b''))
                if status == 200 and not message.get('more_body'):
                    self.uploads.add(client, _paths(bytes(answer)))
            await send(message)

        try:
            with self.uploads.arriving(client, size):
                await self.app(_plain(scope), limited, noted)
        except UploadError as error:
            raise _Refused(507, str(error)) from error

    async def _small(self, path: str, scope, receive, send) -> None:
        """Read a small body, check it, and pass it on."""
        most = self.most_json_bytes if path == _JOIN else _FORM_BYTES
        body = bytearray()
        more = True
        while more:
            message = await receive()
            if message['type'] != 'http.request':
                return
            body += message.get('body', b'')
            more = message.get('more_body', False)
            if len(body) > most:
                raise _Refused(
                    413, f'the question has more than {most:,} bytes.'
                )
        if path != '/login':
            content = self._check_json(bytes(body))
            if path == _JOIN:
                self._check_event(content)
        sent = False

        async def again() -> dict:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return dict(type='http.request', body=bytes(body), more_body=False)

        await self.app(scope, again, send)

    def _check_event(self, content: dict) -> None:
        """Refuse an event that the page does not have."""
        event = content.get('fn_index')
        if type(event) is not int or event not in self.events:
            raise _Refused(400, 'fn_index is not an event of the page.')
        if not isinstance(content.get('data'), list):
            raise _Refused(400, 'data is not a list.')

    def _check_json(self, body: bytes) -> dict:
        """Refuse a body that is not what the page sends."""
        try:
            content = json.loads(body)
        except (RecursionError, ValueError) as error:
            raise _Refused(400, 'the question is not JSON.') from error
        if not isinstance(content, dict):
            raise _Refused(400, 'the question is not a JSON object.')
        session = content.get('session_hash')
        if session is not None and not (
            isinstance(session, str) and _SESSION.fullmatch(session)
        ):
            raise _Refused(400, 'session_hash is not a name of a session.')
        waiting: list[Any] = [content]
        while waiting:  # without recursion, however deep
            value = waiting.pop()
            if isinstance(value, dict):
                if 'path' in value:
                    try:
                        self.uploads.check(value['path'])
                    except UploadError as error:
                        raise _Refused(400, str(error)) from error
                waiting.extend(value.values())
            elif isinstance(value, list):
                waiting.extend(value)
        return content


class _Refused(Exception):
    """A request that is not passed on.

    Args:
        status: Of HTTP.
        reason: One sentence.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


async def _answer(status: int, reason: str, send) -> None:
    """Answer in the form that Gradio's page shows."""
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


def _length(scope) -> int | None:
    """The length of a body, if the request gives it."""
    for name, value in scope['headers']:
        if name.lower() == b'content-length' and value.isdigit():
            return int(value)
    return None


def _plain(scope) -> dict:
    """A scope whose answer comes uncompressed."""
    return {
        **scope,
        'headers': [
            (name, value)
            for name, value in scope['headers']
            if name.lower() != b'accept-encoding'
        ],
    }


def _paths(answer: bytes) -> list[str]:
    """The paths in Gradio's answer to an upload."""
    try:
        paths = json.loads(answer)
    except ValueError:
        return []
    if not isinstance(paths, list):
        return []
    return [path for path in paths if isinstance(path, str)]
