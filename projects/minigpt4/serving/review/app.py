# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The HTTP application of the review page.

A decision is on disk before its response is sent. The page itself is in
``curation/review_page``, because the offline copy of it has the same files.
"""

import errno
import functools
import json
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import Response

from ...curation.added_files import ImageProblem
from ...curation.decisions import check_reviewer, make_review
from ...curation.ledger import LedgerImage
from ...curation.review_export import item_json, ledger_name
from ...curation.review_images import not_displayed, reduced_image
from ...curation.review_item import ReviewItem
from ...curation.review_page import page_file
from ...curation.review_queue import SHOWN, ReviewQueue
from ...curation.reviews import Review
from ...prompts.text_validation import check_text
from ...utils.errors import one_line
from ...utils.sqlite_errors import DatabaseError
from ..http.errors import (
    ApiError,
    error_response,
    format_value,
    handle_api_error,
    handle_http_error,
    json_response,
)
from ..http.hosts import HostGuard, HostRules
from ..web.content_policy import ContentPolicy

IMAGE_SIDE = 1600  # pixels of the displayed image
_MAX_BODY = 2**18  # bytes
_MAX_DRAFT = 40_000  # characters
_STORED_IMAGES = 32  # in memory
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' "
    "data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_FILES = {
    '/': ('page.html', 'text/html'),
    '/page.css': ('page.css', 'text/css'),
    '/page.js': ('page.js', 'text/javascript'),
    '/server.js': ('server.js', 'text/javascript'),
}


def review_app(queue: ReviewQueue, rules: HostRules | None = None) -> FastAPI:
    """Build the application.

    Args:
        queue: The texts under review.
        rules: The accepted values of ``Host`` and ``Origin``.
    """
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    _ReviewRoutes(queue).add_to(app)
    app.add_exception_handler(ApiError, handle_api_error)  # type: ignore
    app.add_exception_handler(HTTPException, handle_http_error)  # type: ignore
    for kind in (OSError, DatabaseError):
        app.add_exception_handler(kind, _handle_ledger_error)
    app.add_middleware(HostGuard, rules=rules or HostRules())
    app.add_middleware(ContentPolicy, policy=_POLICY)
    return app


async def _handle_ledger_error(request: Request, error: Exception) -> Response:
    """Respond to a ledger that cannot be read or written."""
    full = getattr(error, 'errno', None) == errno.ENOSPC
    message = f'nothing was stored: {one_line(error)}'
    return error_response(ApiError(507 if full else 503, message))


class _ReviewRoutes:
    """The routes of the page."""

    def __init__(self, queue: ReviewQueue) -> None:
        self.queue = queue
        self.ledger = queue.ledger
        self._name = ledger_name(queue)
        self._image = functools.lru_cache(_STORED_IMAGES)(self._read_image)

    def add_to(self, app: FastAPI) -> None:
        for path, (name, media_type) in _FILES.items():
            app.get(path)(_static(name, media_type))
        app.get('/api/item')(self._get_item)
        app.get('/api/progress')(self._get_progress)
        app.get('/image/{number}')(self._get_image)
        app.post('/api/review')(self._receive(self._review))
        app.post('/api/draft')(self._receive(self._save_draft))

    def _receive(
        self, handle: Callable[[dict[str, Any]], dict[str, Any]]
    ) -> Callable:
        async def receive(request: Request) -> Response:
            content = await _read_json(request)
            try:
                found = await run_in_threadpool(handle, content)
            except ValueError as error:
                raise ApiError(400, str(error)) from error
            return json_response(found)

        return receive

    def _get_item(
        self,
        reviewer: str = '',
        image: int | None = None,
        go: str = 'here',
        shown: str = 'todo',
    ) -> Response:
        """The text of an image, or the next or previous one."""
        try:
            reviewer = check_reviewer(reviewer)
        except ValueError as error:
            raise ApiError(400, str(error)) from error
        _check_shown(shown)
        if go not in ('here', 'next', 'previous'):
            raise ApiError(
                400,
                f'go is {format_value(go)}; expected here, next or previous.',
            )
        if go != 'here' or image is None:
            image = self.queue.next(
                reviewer, shown, image, go != 'previous', hold=True
            )
        return json_response(self._content(reviewer, shown, image))

    def _get_progress(self) -> Response:
        return json_response(self.queue.progress())

    def _get_image(self, number: int) -> Response:
        try:
            data = self._image(number)
        except ImageProblem as error:
            raise ApiError(404, not_displayed(error)) from error
        return Response(
            data,
            media_type='image/jpeg',
            headers={
                'Cache-Control': 'private, max-age=3600',
                'X-Content-Type-Options': 'nosniff',
            },
        )

    def _read_image(self, number: int) -> bytes:
        """A JPEG of an image at the size of a screen."""
        images = self.ledger.images([number])
        if not images:
            raise ApiError(404, f'the ledger has no image {number}.')
        return reduced_image(images[0], IMAGE_SIDE)

    def _review(self, content: dict[str, Any]) -> dict[str, Any]:
        """Store a decision; the response has the next text."""
        item = self._item_of(content)
        shown = _check_shown(content.get('shown', 'todo'))
        reviewer = check_reviewer(content.get('reviewer'))
        before = self._own_review(item, reviewer)
        review = make_review(
            item,
            reviewer,
            content.get('decision'),
            content.get('text'),
            content.get('note'),
            undo=True,
        )
        self.ledger.reviews.add(review)
        if review.decision in ('accept', 'edit') and content.get('text'):
            self.ledger.reviews.save_draft(
                item.image.id, item.digest, reviewer, None
            )
        image: int | None = item.image.id
        if content.get('go') == 'next':
            image = self.queue.next(reviewer, shown, image, hold=True)
        return dict(
            saved=review.decision,
            before=_review_json(before),
            **self._content(reviewer, shown, image),
        )

    def _save_draft(self, content: dict[str, Any]) -> dict[str, Any]:
        """Store an edit in progress."""
        item = self._item_of(content)
        reviewer = check_reviewer(content.get('reviewer'))
        text = content.get('text')
        if text is not None:
            text = check_text(text, 'the draft', True, _MAX_DRAFT)
        self.ledger.reviews.save_draft(
            item.image.id, item.digest, reviewer, text
        )
        return dict(saved=True)

    def _item_of(self, content: dict[str, Any]) -> ReviewItem:
        """The text that a request is about, unless it has changed."""
        image = content.get('image')
        if type(image) is not int or not 0 < image < 2**63:
            raise ApiError(400, 'image is not the number of an image.')
        item = self.queue.item(image)
        if item is None:
            raise ApiError(404, f'image {image} has no text under review.')
        if content.get('reviewed') != item.digest:
            raise ApiError(
                409,
                'the text of this image has changed since it was displayed; '
                'reload the page.',
            )
        return item

    def _own_review(self, item: ReviewItem, reviewer: str) -> Review | None:
        return next(
            (
                review
                for review in self.ledger.reviews.latest(item.image.id)
                if review.reviewer == reviewer
                and review.reviewed == item.digest
            ),
            None,
        )

    def _content(
        self, reviewer: str, shown: str, image: int | None
    ) -> dict[str, Any]:
        """What the page displays: an item, what follows, the progress."""
        item = None if image is None else self.queue.item(image)
        if image is not None and item is None:
            raise ApiError(404, f'image {image} has no text under review.')
        progress = self.queue.progress()
        progress['scoring'] = self.queue.scoring
        content: dict[str, Any] = dict(
            ledger=self._name, item=None, upcoming=None, progress=progress
        )
        if item is not None:
            content['item'] = self._item_json(item, reviewer)
            following = self.queue.next(reviewer, shown, item.image.id)
            if following is not None:
                (upcoming,) = self.ledger.images([following])
                content['upcoming'] = dict(
                    image=following, url=_image_url(upcoming)
                )
        return content

    def _item_json(self, item: ReviewItem, reviewer: str) -> dict[str, Any]:
        own = self._own_review(item, reviewer)
        draft = self.ledger.reviews.draft(item.image.id, item.digest, reviewer)
        others = [
            dict(reviewer=review.reviewer, decision=review.decision)
            for review in self.ledger.reviews.latest(item.image.id)
            if review.reviewed == item.digest and review.reviewer != reviewer
        ]
        return dict(
            item_json(item),
            url=_image_url(item.image),
            place=self.queue.place(item.image.id),
            risk=self.queue.risk(item.image.id),
            own=_review_json(own),
            draft=draft and dict(text=draft[0], saved=draft[1]),
            # so that decisions are independent
            others=others if own else [],
        )


def _review_json(review: Review | None) -> dict[str, Any] | None:
    if review is None:
        return None
    return dict(decision=review.decision, text=review.text, note=review.note)


def _image_url(image: LedgerImage) -> str:
    """The address of an image.

    It has the digest, because a browser may still have an image of the same
    number in another ledger.
    """
    return f'image/{image.id}?{image.digest[:16]}'


def _check_shown(shown: Any) -> str:
    if shown not in SHOWN:
        raise ApiError(
            400,
            f'shown is {format_value(shown)}; expected one of '
            f'{", ".join(SHOWN)}.',
        )
    return shown


def _static(name: str, media_type: str) -> Callable[[], Response]:
    def respond() -> Response:
        return Response(
            page_file(name),
            media_type=media_type,
            headers={
                'Cache-Control': 'no-cache',
                'X-Content-Type-Options': 'nosniff',
            },
        )

    return respond


async def _read_json(request: Request) -> dict[str, Any]:
    """Read a small JSON object, which another site's form cannot send."""
    kind = request.headers.get('content-type', '').partition(';')[0].strip()
    if kind.lower() != 'application/json':
        raise ApiError(415, 'Content-Type is not application/json.')
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > _MAX_BODY:
            raise ApiError(
                413, f'the request has more than {_MAX_BODY:,} bytes.'
            )
    try:
        content = json.loads(body)
    except (RecursionError, ValueError) as error:
        raise ApiError(400, 'the request is not JSON.') from error
    if not isinstance(content, dict):
        raise ApiError(400, 'the request is not a JSON object.')
    return content
