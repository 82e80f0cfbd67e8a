# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Serve the review page until a signal stops it."""

import contextlib
import threading
from collections.abc import Collection

import uvicorn

from ...curation.review_queue import ReviewQueue
from ...utils.signals import raise_on_signals
from ..http.hosts import HostRules, is_loopback, own_names
from ..http.serve import bind
from .app import review_app


def serve_review(
    queue: ReviewQueue,
    host: str = '127.0.0.1',
    port: int = 8010,
    allowed_hosts: Collection[str] = (),
    allowed_origins: Collection[str] = (),
) -> None:
    """Serve the page.

    Args:
        queue: The texts under review.
        host: The address; with 0.0.0.0 other machines can connect.
        port: The port; 0 is any free one.
        allowed_hosts: Further names of this machine.
        allowed_origins: Other sites whose pages may send requests.

    Raises:
        OSError: The address cannot be used.
        ValueError: A name or an origin is malformed.
        StopSignal: A signal stopped the server.
    """
    rules = HostRules([*own_names(host), *allowed_hosts], allowed_origins)
    app = review_app(queue, rules)
    ended = threading.Event()
    scoring = threading.Thread(
        target=queue.score_objects, args=(ended.is_set,), daemon=True
    )
    with (
        raise_on_signals('All decisions are stored.'),
        contextlib.closing(bind(host, port)) as listener,
    ):
        bound, port = listener.getsockname()[:2]
        name = f'[{bound}]' if ':' in bound else bound
        print(
            f'{len(queue):,} texts to review: http://{name}:{port}/',
            flush=True,
        )
        if not is_loopback(bound):
            print(
                'warning: every machine that can connect can see the images '
                'and decide.',
                flush=True,
            )
        print('Ctrl+C stops it.', flush=True)
        scoring.start()
        config = uvicorn.Config(
            app, log_level='warning', ws='none', server_header=False
        )
        try:
            uvicorn.Server(config).run(sockets=[listener])
        finally:
            ended.set()
            scoring.join()
