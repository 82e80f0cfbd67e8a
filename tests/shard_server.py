# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A server of shards on loopback that counts bytes and misbehaves."""

import http.server
import threading
from collections import Counter
from pathlib import Path


class ShardServer(http.server.ThreadingHTTPServer):
    """Serve the files of a folder below ``/NAME/``, with ranges.

    Args:
        folder: The folder.
        port: Port; 0 for a free one.

    Attributes:
        folder: The folder.
        sent: Bytes of bodies that were sent, by the first part of the path.
        requests: Paths and ranges that were requested.
        cut: By file name, the bytes after which a response ends early, once
            for each number.
        statuses: By file name, the statuses of the next responses.
        blocked: Names of files whose responses stop after ``block_after``
            bytes.
        block_after: Bytes that are sent of a blocked file.
        retry_after: The ``Retry-After`` of error responses, if any.
        has_ranges: Whether ranges are supported.
        piece: Bytes of a range that are sent at most, with status 206 also
            if no range was asked for; None for all.
        names_size: Whether ``Content-Range`` has the size of the file.
        etag: The ``ETag`` of the responses.
        tags_ranges: Whether responses to ranges have the ``ETag``, too.
        shift: Bytes by which ranges begin too late.
        other: Base URL of the server to which all requests are redirected.
        logins: The ``Authorization`` of the requests.
        release: Ends the blocked responses.
        url: Base URL.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, folder: Path, port: int = 0) -> None:
        super().__init__(('127.0.0.1', port), _Handler)
        self.folder = folder
        self.sent: Counter[str] = Counter()
        self.requests: list[tuple[str, str | None]] = []
        self.cut: dict[str, list[int]] = {}
        self.statuses: dict[str, list[int]] = {}
        self.blocked: set[str] = set()
        self.block_after = 0
        self.retry_after: str | None = None
        self.has_ranges = True
        self.piece: int | None = None
        self.names_size = True
        self.etag = '"one"'
        self.tags_ranges = True
        self.shift = 0
        self.other: str | None = None
        self.logins: list[str | None] = []
        self.release = threading.Event()
        self.url = f'http://127.0.0.1:{self.server_port}'

    def __enter__(self) -> 'ShardServer':
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release.set()
        self.shutdown()
        self.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: ShardServer

    def log_message(self, *args):
        pass

    def do_GET(self):
        server = self.server
        wanted = self.headers.get('Range')
        server.requests.append((self.path, wanted))
        server.logins.append(self.headers['Authorization'])
        if server.other:
            self.send_response(302)
            self.send_header('Location', server.other + self.path)
            self.send_header('Content-Length', '0')
            self.end_headers()
            return
        _, first, path = self.path.split('/', 2)
        file = server.folder / path
        statuses = server.statuses.get(file.name)
        if statuses:
            self.send_response(statuses.pop(0))
            if server.retry_after:
                self.send_header('Retry-After', server.retry_after)
            self.send_header('Content-Length', '0')
            self.end_headers()
            return
        if not file.is_file():
            self.send_error(404)
            return
        body, start = file.read_bytes(), 0
        size = len(body)
        if wanted and server.has_ranges:
            if self.headers['If-Range'] in (None, server.etag):
                start = int(wanted.removeprefix('bytes=').rstrip('-'))
                start += server.shift
        if start and start >= size:
            self.send_error(416)
            return
        body = body[start:][: server.piece]
        partial = bool(start or server.piece)
        self.send_response(206 if partial else 200)
        if partial:
            last = start + len(body) - 1
            total = size if server.names_size else '*'
            self.send_header('Content-Range', f'bytes {start}-{last}/{total}')
        if server.etag and (server.tags_ranges or not partial):
            self.send_header('ETag', server.etag)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        cuts = server.cut.get(file.name)
        self.close_connection = True
        if cuts:
            body = body[: cuts.pop(0)]
        elif file.name in server.blocked:
            body = body[: server.block_after]
        self.wfile.write(body)
        self.wfile.flush()
        server.sent[first] += len(body)
        if file.name in server.blocked:
            server.release.wait(60)
