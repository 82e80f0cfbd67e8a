# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Answers of an endpoint that follows OpenAI's API, many at a time."""

import email.utils
import json
import math
import os
import random
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import (
    FIRST_COMPLETED,
    Future,
    ThreadPoolExecutor,
    wait,
)
from typing import Any, NamedTuple

from ..utils.errors import printable
from .answers import Answer, EndpointError, Request
from .cost import token_counter
from .rate import RateLimiter
from .settings import EndpointSettings

_TICK_SECONDS = 0.5
_MAX_BACKOFF = 30.0
_RETRIED = (408, 409, 429)  # and all of 500 and above; as openai does
_MAX_QUOTED = 200  # characters of a message of the endpoint
_MAX_COUNT = 2**53  # a larger number of tokens is none
NO_MESSAGE = 'the answer has no choices with a message'
NO_TEXT = 'the answer has no text'
CONTENT_FILTER = 'a content filter cut the answer off'
NO_KEY = 'none'  # for an endpoint without keys; the client needs some text


class Reply(NamedTuple):
    """What a chat completion holds.

    Attributes:
        text: The text of its first choice; empty if it has none.
        has_text: Whether the message has a text, which may be empty.
        has_message: Whether there is a choice with a message.
        finish_reason: Why the answer ended.
        note: What the endpoint wrote instead of a text, such as an error or a
            refusal, in brackets after a blank; '' if nothing.
        prompt_tokens: As the endpoint counted; None if it did not.
        completion_tokens: As ``prompt_tokens``.
    """

    text: str
    has_text: bool
    has_message: bool
    finish_reason: Any
    note: str
    prompt_tokens: int | None
    completion_tokens: int | None


class OpenAIBackend:
    """A backend that asks an endpoint through OpenAI's official client.

    Args:
        settings: The settings of the step.

    Raises:
        ImportError: The client is not installed.
        ValueError: The environment variable of the key is not set, or the
            address is none.
    """

    def __init__(self, settings: EndpointSettings) -> None:
        try:
            import openai
        except ImportError as error:
            raise ImportError(
                f'{settings.option("backend")} is openai, but the package '
                'openai is not installed; pip install "minigpt4[curate]".'
            ) from error
        self._openai = openai
        self._settings = settings
        self._key = read_key(
            settings.api_key_env,
            f'{settings.option("api_key_env")}=null',
            f' for {settings.task}',
        )
        try:
            self._client = openai.OpenAI(
                api_key=self._key,
                base_url=settings.base_url,
                timeout=settings.timeout_seconds,
                max_retries=0,  # _ask retries, and counts
                # the error of another host is not one of the endpoint
                http_client=openai.DefaultHttpxClient(follow_redirects=False),
            )
        except Exception as error:  # of httpx, e.g. of an invalid port
            raise ValueError(
                f'{settings.option("base_url")} is {settings.base_url!r}, '
                'which is no address of an endpoint; expected e.g. '
                'http://127.0.0.1:8000/v1.'
            ) from error
        self.endpoint = str(self._client.base_url).rstrip('/')
        if self._client.base_url.scheme not in ('http', 'https'):
            raise ValueError(
                f'{settings.option("base_url")} is {self.endpoint!r}; '
                'expected an address that begins with http:// or https://.'
            )
        self._count, _ = token_counter(settings)
        self._limiter = RateLimiter(
            settings.requests_per_minute, settings.tokens_per_minute
        )
        self._ended = threading.Event()

    def answers(
        self, requests: Iterator[Request | None]
    ) -> Iterator[tuple[Request, Answer] | None]:
        """Yield the answer of each request; see ``AnswerBackend``.

        After an error that ends the run no further request is sent; those
        that were sent are awaited, since they are paid for.
        """
        running: dict[Future[Answer | None], Request] = {}
        failed = 0
        error: EndpointError | None = None
        more = True
        ticked = time.monotonic()
        self._ended.clear()
        pool = ThreadPoolExecutor(self._settings.concurrency)
        try:
            while more or running:
                while more and len(running) < self._settings.concurrency:
                    try:
                        request = next(requests)
                    except StopIteration:
                        more = False
                        break
                    if request is None:
                        break
                    if request.known is not None:
                        yield request, request.known
                        continue
                    running[pool.submit(self._ask, request.message)] = request
                done, _ = wait(running, _TICK_SECONDS, FIRST_COMPLETED)
                if not done or time.monotonic() - ticked > _TICK_SECONDS:
                    ticked = time.monotonic()
                    yield None
                for future in done:
                    request = running.pop(future)
                    try:
                        answer = future.result()
                    except EndpointError as raised:
                        error = error or raised
                        answer = None
                    if answer is None:  # it was not sent
                        continue
                    failed = failed + 1 if answer.endpoint_failed else 0
                    yield request, answer
                    if failed >= self._settings.max_failures and not error:
                        error = self._dead(failed, answer.problem)
                if error is not None:
                    more = False
                    self._ended.set()
            if error is not None:
                raise error
        finally:
            self._ended.set()
            pool.shutdown(wait=True, cancel_futures=True)

    def _dead(self, failed: int, problem: str) -> EndpointError:
        return EndpointError(
            f'{self.endpoint} failed {failed} times in succession, at last: '
            f'{problem.rstrip(".")}; {self._settings.kept}, run again when '
            'the endpoint works.'
        )

    def _ask(self, message: str) -> Answer | None:
        """Ask until there is an answer; None if the run has ended."""
        settings = self._settings
        tokens = self._count(message) + self._count(message) // 2
        answer: Answer | None = None
        for attempt in range(settings.retries + 1):
            if not self._limiter.acquire(tokens, self._ended):
                return answer
            try:
                return self._parse(self._send(message))
            except self._openai.APIStatusError as error:
                status = error.status_code
                self._raise_if_fatal(error)
                answer = self._problem(f'HTTP {status} ({self._quote(error)})')
                if not is_temporary(status):
                    return answer
                asked = retry_after(error.response.headers)
                if asked is not None and asked > settings.max_wait_seconds:
                    return self._problem(
                        f'HTTP {status}, and asked to wait {asked:.0f} s, '
                        'more than max_wait_seconds'
                    )
            except self._openai.APITimeoutError:
                asked = None
                answer = self._problem(
                    f'no answer within {settings.timeout_seconds:g} s'
                )
            except self._openai.APIConnectionError as error:
                asked = None
                cause = self._hide_key(error.__cause__ or error)
                answer = self._problem(f'the connection failed ({cause})')
            if attempt == settings.retries:
                break
            if asked is not None:
                self._limiter.pause(asked)
            backoff = min(settings.backoff_seconds * 2**attempt, _MAX_BACKOFF)
            # random: threads that failed together do not return together
            if self._ended.wait(
                asked or backoff * (1 - 0.25 * random.random())
            ):
                break
        return answer

    def _send(self, message: str) -> bytes:
        settings = self._settings
        body: dict[str, Any] = {settings.max_tokens_field: settings.max_tokens}
        if settings.temperature is not None:
            body['temperature'] = settings.temperature
        response = self._client.chat.completions.with_raw_response.create(
            model=settings.model,
            messages=[{'role': 'user', 'content': message}],
            extra_body={**body, **settings.extra_body},
        )
        return response.content

    def _parse(self, content: bytes) -> Answer:
        try:
            reply = parse_reply(content, self._key)
        except ValueError as error:
            return self._problem(str(error))
        counts = reply.prompt_tokens, reply.completion_tokens
        if not reply.has_message:
            return self._problem(NO_MESSAGE + reply.note, *counts)
        if reply.finish_reason == 'length':
            problem = (
                f'the answer reached {self._settings.max_tokens} tokens and '
                f'is cut off; raise {self._settings.option("max_tokens")}.'
            )
            return Answer('', problem, *counts)
        if reply.finish_reason == 'content_filter':
            return Answer('', f'{CONTENT_FILTER}.', *counts)
        if not reply.text.strip():
            return Answer('', f'{NO_TEXT}{reply.note}.', *counts)
        return Answer(reply.text.strip(), '', *counts)

    def _problem(
        self,
        what: str,
        prompt_tokens: int | None = None,
        completion_tokens: int | None = None,
    ) -> Answer:
        return Answer(
            '',
            f'{self.endpoint}: {what}.',
            prompt_tokens,
            completion_tokens,
            endpoint_failed=True,
        )

    def _raise_if_fatal(self, error: Any) -> None:
        """Raise what no further request can change."""
        status, quoted = error.status_code, self._quote(error)
        model = self._settings.model
        address = self._settings.option('base_url')
        if 300 <= status < 400:
            target = error.response.headers.get('location', 'no address')
            raise EndpointError(
                f'{self.endpoint} redirects to {self._hide_key(target)} '
                f'(HTTP {status}), which is not followed; set {address} to '
                'the address of the endpoint.'
            )
        if status == 401:
            name = self._settings.api_key_env
            what = 'refuses the key' + (f' of {name}' if name else '')
            hint = 'set a valid key'
        elif status == 403:
            what = f'does not permit the model {model!r} to this key'
            hint = 'give another model or key'
        elif status == 404:
            what = f'has no model {model!r}, or is no chat endpoint'
            hint = f'check {self._settings.option("model")} and {address}'
        elif status == 402 or error.code == 'insufficient_quota':
            what, hint = 'has no credit left', 'add credit'
        else:
            return
        raise EndpointError(
            f'{self.endpoint} {what} (HTTP {status}: {quoted}); {hint}.'
        )

    def _quote(self, error: Any) -> str:
        """Return what the endpoint wrote, in one short line without key."""
        return response_message(error.body, self._key)

    def _hide_key(self, text: object) -> str:
        return _quoted(text, self._key)


def is_temporary(status: int) -> bool:
    """Whether a request may be repeated after this HTTP status."""
    return status in _RETRIED or status >= 500


def parse_reply(content: bytes, key: str = NO_KEY) -> Reply:
    """Read a chat completion; anything may arrive, e.g. the page of a proxy.

    Args:
        content: The body of the response.
        key: The key of the request; it is hidden.

    Raises:
        ValueError: It is no JSON; a phrase without a full stop.
    """
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        is_page = content.lstrip()[:1] == b'<'
        raise ValueError(
            f'the answer is {"HTML" if is_page else "no JSON"}'
        ) from None
    usage = _get(data, 'usage')
    choices = _get(data, 'choices')
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = _get(choice, 'message')
    found = _get(message, 'content')
    text = _text_of(found)
    refusal = _get(message, 'refusal')
    written = _get(data, 'error') and response_message(data, key)
    if isinstance(refusal, str) and refusal and not text:
        written, found = _quoted(refusal, key), None
    return Reply(
        text,
        isinstance(found, (str, list)),
        isinstance(message, dict),
        _get(choice, 'finish_reason'),
        f' ({written})' if written else '',
        _count(_get(usage, 'prompt_tokens')),
        _count(_get(usage, 'completion_tokens')),
    )


def response_message(body: object, key: str = NO_KEY) -> str:
    """Return what an endpoint wrote about an error, in one short line.

    Args:
        body: Of the response: parsed JSON, or text.
        key: The key of the request; it is hidden.

    Returns:
        The line, without a full stop.
    """
    text = _get(body, 'message') or _get(_get(body, 'error'), 'message')
    if not isinstance(text, str):
        text = str(_get(body, 'error') or _get(body, 'detail') or body)
        if text.lstrip().startswith('<'):
            text = 'a page of HTML'
    return _quoted(text, key)


def _quoted(text: object, key: str) -> str:
    text = ' '.join(str(text).split())
    if key != NO_KEY:
        text = text.replace(key, '***')
    if len(text) > _MAX_QUOTED:
        text = text[: _MAX_QUOTED - 3] + '...'
    return printable(text).rstrip('.')


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that an answer asks to wait; None if it does not.

    Args:
        headers: Of the answer: ``retry-after-ms``, or ``retry-after`` as
            seconds or date.
    """
    for name, divisor in (('retry-after-ms', 1000), ('retry-after', 1)):
        try:
            seconds = float(headers.get(name, '')) / divisor
        except ValueError:
            continue
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    date = email.utils.parsedate_tz(headers.get('retry-after', ''))
    if date is None:
        return None
    return max(email.utils.mktime_tz(date) - time.time(), 0.0)


def read_key(variable: str | None, without: str, task: str = '') -> str:
    """Read the key of an endpoint from the environment.

    Args:
        variable: The environment variable; None for no key.
        without: What the user sets for an endpoint without a key.
        task: What the key is for, as part of the error.

    Raises:
        ValueError: The variable is not set, or holds what is no key.
    """
    if variable is None:
        return NO_KEY
    key = os.environ.get(variable, '').strip()
    if not key:
        raise ValueError(
            f'the environment variable {printable(variable)} holds no key'
            f'{task}; set it, or {without} for an endpoint without a key.'
        )
    if not (key.isascii() and key.isprintable()):
        raise ValueError(
            f'the environment variable {printable(variable)} holds a line '
            f'end or another character that no key{task} has; set it to the '
            'key alone.'
        )
    return key


def _get(value: object, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def _text_of(content: object) -> str:
    """Return the text of a message, which may be a list of parts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [_get(p, 'text') for p in parts if _get(p, 'type') == 'text']
    return ''.join(text for text in texts if isinstance(text, str))


def _count(value: object) -> int | None:
    valid = type(value) is int and 0 <= value <= _MAX_COUNT
    return value if valid else None  # type: ignore[return-value]
