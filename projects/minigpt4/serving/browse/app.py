# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The application of the browse page: its files, records and images."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from ...data_tools.data_items import DataItem, read_image_bytes
from ...data_tools.prompt_tokens import PromptTokens, prompt_or_error
from ...images.read import read_image
from ...images.thumbnail import thumbnail
from ...utils.errors import one_line, printable
from ...utils.sample_errors import SampleError
from ..http.errors import json_response
from ..http.hosts import HostGuard, HostRules
from ..web.content_policy import ContentPolicy
from .record_index import RecordIndex

_FOLDER = Path(__file__).parent
_FILES = {
    '/': ('page.html', 'text/html'),
    '/page.js': ('page.js', 'text/javascript'),
    '/page.css': ('page.css', 'text/css'),
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
MAX_PAGE = 200  # records of a list
_MAX_NUMBER = 2**53
_SIDES = {'small': 96, 'large': 1024}  # pixels of an image
_MAX_QUERY = 500
_Number = Annotated[int, Query(ge=0, le=_MAX_NUMBER)]
_Text = Annotated[str, Query(max_length=_MAX_QUERY)]


def build_app(
    index: RecordIndex, prompts: PromptTokens, sources: str
) -> FastAPI:
    """Build the application.

    Args:
        index: The records.
        prompts: Makes their prompts.
        sources: The data, as the page names them.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get('/api/status')
    def status() -> Response:
        return json_response(
            dict(
                sources=printable(sources),
                count=index.count,
                complete=index.complete,
                error=index.error,
                model=prompts.name,
                template=prompts.template_name,
                max_text_length=prompts.max_text_length,
                context_length=prompts.context_length,
            )
        )

    @app.get('/api/records')
    def records(
        after: _Number = 0,
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50,
        query: _Text = '',
        invalid: bool = False,
    ) -> Response:
        entries = index.page(after, limit, query, invalid)
        return json_response([entry._asdict() for entry in entries])

    @app.get('/api/matches')
    def matches(query: _Text = '', invalid: bool = False) -> Response:
        return json_response(dict(count=index.matches(query, invalid)))

    @app.get('/api/records/{number}')
    def record(number: int) -> Response:
        item = _item(index, number)
        return json_response(_details(number, item, prompts))

    @app.get('/api/records/{number}/images/{place}')
    def image(number: int, place: int, size: str = 'large') -> Response:
        item = _item(index, number)
        if not 0 <= place < len(item.images) or size not in _SIDES:
            raise HTTPException(404)
        try:
            data = read_image_bytes(item.images[place])
            decoded = read_image(data, item.images[place].name)
        except (SampleError, OSError, ValueError) as error:
            return _error(422, one_line(error))
        headers = {'Cache-Control': 'private, max-age=60'}
        return Response(
            thumbnail(decoded, _SIDES[size]), 200, headers, 'image/jpeg'
        )

    for route in _FILES:
        app.add_api_route(route, _send_file, include_in_schema=False)
    app.add_exception_handler(HTTPException, _handle_http_error)
    app.add_exception_handler(RequestValidationError, _handle_invalid)
    app.add_middleware(ContentPolicy, policy=_POLICY)
    app.add_middleware(HostGuard, rules=HostRules())  # the outermost
    return app


def _send_file(request: Request) -> Response:
    name, media_type = _FILES[request.url.path]
    headers = {
        'Cache-Control': 'no-cache',
        'X-Content-Type-Options': 'nosniff',
    }
    return FileResponse(_FOLDER / name, 200, headers, media_type)


def _item(index: RecordIndex, number: int) -> DataItem:
    item = index.item(number) if 0 < number < _MAX_NUMBER else None
    if item is None:
        raise HTTPException(404)
    return item


def _error(status: int, reason: str) -> Response:
    return json_response(dict(error=reason), status)


def _handle_http_error(request: Request, error: Exception) -> Response:
    status = getattr(error, 'status_code', 404)
    reason = 'there is no such page, record or image.'
    if status == 405:
        reason = 'expected the method GET.'
    return _error(status, reason)


def _handle_invalid(request: Request, error: Exception) -> Response:
    return _error(
        422,
        'expected after (a number from 0), limit (1 to '
        f'{MAX_PAGE}) and query (at most {_MAX_QUERY} characters).',
    )


def _details(
    number: int, item: DataItem, prompts: PromptTokens
) -> Mapping[str, Any]:
    """Return a record with its prompt for the page."""
    details: dict[str, Any] = dict(
        number=number,
        part=item.part,
        id=item.id,
        error=item.error,
        turns=[[turn.question, turn.answer] for turn in item.turns],
        images=[ref.name for ref in item.images],
        prompt=None,
        prompt_error='',
    )
    if item.error is not None or not item.turns:
        details['prompt_error'] = 'this record has no prompt.'
        return details
    prompt, details['prompt_error'] = prompt_or_error(prompts, item)
    if prompt is not None:
        tokens = prompts.tokens(prompt)
        details['prompt'] = dict(
            tokens=[token._asdict() for token in tokens],
            length=prompt.length,
            supervised=sum(token.supervised for token in tokens),
            cut=sum(token.cut for token in tokens),
            truncated=prompt.truncated,
            fits=prompt.fits,
        )
    return details
