# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A file server on loopback that misbehaves on request."""

import hashlib
import http.server
import random
import time
from pathlib import Path

DATA = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(DATA).hexdigest()
HASHED = f'projection_20230615-{SHA256[:8]}.pth'  # an OpenMMLab name
VARIABLES = (
    *('HF_HUB_OFFLINE', 'MINIGPT4_OFFLINE', 'MINIGPT4_MIRROR'),
    *('http_proxy', 'https_proxy', 'HTTP_PROXY', 'HTTPS_PROXY', 'all_proxy'),
)


class FileServer(http.server.ThreadingHTTPServer):
    """Serve the same bytes under every name.

    Attributes:
        data: The bytes.
        etag: The ``ETag`` of the responses.
        kind: The ``Content-Type`` of the responses.
        statuses: Status codes of the next responses; then 200.
        cuts: Bytes after which the next responses end early.
        ranges: Whether ranges are supported.
        lengths: Whether ranges have a ``Content-Length``.
        stall: Seconds before a cut connection is closed.
        requests: Names and ranges that were requested.
        url: Base URL.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(('127.0.0.1', 0), Handler)
        self.data, self.etag, self.kind = DATA, '"one"', 'application/binary'
        self.statuses: list[int] = []
        self.cuts: list[int] = []
        self.ranges = self.lengths = True
        self.stall = 0.0
        self.requests: list[tuple[str, str | None]] = []
        self.url = f'http://127.0.0.1:{self.server_port}/released'


class Handler(http.server.BaseHTTPRequestHandler):
    """Answer GET requests as the server's attributes say."""

    server: FileServer

    def log_message(self, *args):
        pass

    def do_GET(self):
        server = self.server
        requested_range = self.headers.get('Range')
        server.requests.append((self.path.rpartition('/')[2], requested_range))
        status = server.statuses.pop(0) if server.statuses else 200
        if status != 200:
            self.send_error(status)
            return
        start = 0
        if requested_range and server.ranges:
            if self.headers['If-Range'] in (None, server.etag):
                start = int(requested_range.removeprefix('bytes=').rstrip('-'))
        size = len(server.data)
        if start >= size:
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            sent = f'bytes {start}-{size - 1}/{size}'
            self.send_header('Content-Range', sent)
        self.send_header('ETag', server.etag)
        self.send_header('Content-Type', server.kind)
        if server.lengths or not start:
            self.send_header('Content-Length', str(size - start))
        self.end_headers()
        body = server.data[start:]
        if server.cuts:
            self.wfile.write(body[: server.cuts.pop(0)])
            self.wfile.flush()
            time.sleep(server.stall)
            self.close_connection = True
            return
        self.wfile.write(body)


def files_in(folder: Path) -> set[str]:
    """Names of the files in a folder, without lock files."""
    return {path.name for path in folder.iterdir() if path.suffix != '.lock'}
