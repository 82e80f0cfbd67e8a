# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Answer prompts about images with a server that follows OpenAI's API.

``minigpt4 serve`` and ``vllm serve`` are such servers. A request is repeated
after a lost connection and after a temporary error, not after a time limit.
"""

import base64
import io
import logging
import queue
import random
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from mmengine.logging import print_log

from ..endpoints.openai_api import (
    CONTENT_FILTER,
    NO_KEY,
    NO_MESSAGE,
    NO_TEXT,
    Reply,
    is_temporary,
    parse_reply,
    read_key,
    response_message,
    retry_after,
)
from ..images.read import read_file, read_image
from ..prompts import IMAGE_HERE
from ..utils.errors import UserError, one_line, printable
from .batch import CaptionTask, TaskAnswer, check_image_file

TIMEOUT_SECONDS = 600.0  # of one answer, as in the package openai
_CHECK_SECONDS = 20.0  # of the first request
SILENT_SECONDS = 60.0  # without any answer, until that is logged
_RETRIES = 10
WAIT_SECONDS = (0.5, 8.0)  # between tries, doubled; about a minute together
_MAX_ASKED_SECONDS = 60.0  # that a server may ask to wait
_MAX_CONSECUTIVE_FAILURES = 16
_JPEG = b'\xff\xd8'
# parameters of a request whose name differs from ours
_NAMES = {'max_new_tokens': 'max_tokens', 'min_new_tokens': 'min_tokens'}
_NOT_SENT = ('num_beams', 'length_penalty')


class ServerError(UserError):
    """The server cannot be used, or fails on every request."""


class CaptionServer:
    """A server that answers prompts about images.

    Args:
        url: Its base URL; without a path ``/v1`` is added.
        model: Name of the model there; None for the first of its list.
        key_variable: Environment variable of the key; None for no key.
        timeout: Time limit of one answer, in seconds.

    Attributes:
        model: Name of the model.

    Raises:
        ImportError: The package ``openai`` is not installed.
        ValueError: The URL is invalid, or the variable is not set.
        ServerError: The server does not answer, or has no such model.
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        key_variable: str | None = None,
        timeout: float = TIMEOUT_SECONDS,
    ) -> None:
        try:
            import openai
        except ImportError as error:
            raise ImportError(
                '--server needs the package openai, which is not installed; '
                'run: pip install openai.'
            ) from error
        self._openai = openai
        self._timeout = timeout
        self.url = _base_url(url)
        self._key = read_key(key_variable, 'omit --api-key-env')
        self._client = openai.OpenAI(
            base_url=self.url,
            api_key=self._key,
            timeout=timeout,
            max_retries=0,  # _request repeats
            http_client=openai.DefaultHttpxClient(follow_redirects=False),
        )
        names = self._model_names()
        if model is not None and model not in names:
            raise ServerError(
                f'{self.url} has no model {printable(model)!r}; it has '
                f'{printable(", ".join(names))}.'
            )
        self.model = model or names[0]

    def _model_names(self) -> list[str]:
        client = self._client.with_options(max_retries=1)
        try:
            page = client.models.list(timeout=_CHECK_SECONDS)
            names = [model.id for model in page.data]
            if not all(isinstance(name, str) and name for name in names):
                raise ValueError('a model has no name')
        except self._openai.OpenAIError as error:
            reason = self._reason(error, _CHECK_SECONDS)
            if getattr(error, 'status_code', 0) in (401, 403):
                raise ServerError(
                    f'{self.url} refuses the key ({reason}).'
                ) from error
            raise ServerError(
                f'{self.url} cannot be used ({reason}); expected the address '
                "of a server that follows OpenAI's API, such as "
                'http://127.0.0.1:8000/v1.'
            ) from error
        except (AttributeError, TypeError, ValueError) as error:
            raise ServerError(
                f'{self.url}/models gives no list of models; expected the '
                "address of a server that follows OpenAI's API, such as "
                'http://127.0.0.1:8000/v1.'
            ) from error
        if not names:
            raise ServerError(f'{self.url} has no model.')
        return names

    def answer_tasks(
        self,
        tasks: Iterable[CaptionTask],
        slots: int,
        settings: Mapping[str, Any],
    ) -> Iterator[list[TaskAnswer]]:
        """Answer prompts, ``slots`` at the same time.

        The failure of one task is the error of its result. Images are read in
        threads of this process, so that a file that is no image has the same
        error as without a server. JPEG files are sent unchanged, others as
        PNG of what was read.

        Args:
            tasks: What to answer; the next one is taken when one has ended.
            slots: Requests at the same time.
            settings: Sampling parameters, as :func:`request_fields` takes
                them.

        Yields:
            The tasks that have ended, in any order.

        Raises:
            ServerError: The server refuses every request, or fails on many
                in succession.
        """
        fields = request_fields(settings)
        waiting: queue.SimpleQueue[CaptionTask | None] = queue.SimpleQueue()
        ended: queue.SimpleQueue[TaskAnswer] = queue.SimpleQueue()

        def work() -> None:
            while (task := waiting.get()) is not None:
                ended.put(self._answer(task, fields))

        # the process does not wait for their requests when it is stopped
        threads = [
            threading.Thread(target=work, daemon=True) for _ in range(slots)
        ]
        for thread in threads:
            thread.start()
        remaining = iter(tasks)
        n_running = failures = 0
        try:
            while True:
                while n_running < slots and (task := next(remaining, None)):
                    waiting.put(task)
                    n_running += 1
                if not n_running:
                    return
                answer = self._next(ended, n_running)
                n_running -= 1
                yield [answer]
                if isinstance(answer.error, _RequestError):
                    failures += 1
                    limit = max(_MAX_CONSECUTIVE_FAILURES, 2 * slots)
                    if answer.error.is_final:
                        raise ServerError(one_line(answer.error))
                    if failures >= limit:
                        raise ServerError(
                            f'{failures} requests failed in succession '
                            f'({one_line(answer.error)}); what was answered '
                            'before is kept, and the same command continues '
                            'when the server works.'
                        )
                elif answer.error is None:
                    failures = 0
        finally:
            for _ in threads:
                waiting.put(None)

    def _next(
        self, ended: 'queue.SimpleQueue[TaskAnswer]', n_running: int
    ) -> TaskAnswer:
        """Wait for the next task that ends."""
        seconds = 0.0
        while True:
            try:
                return ended.get(timeout=SILENT_SECONDS)
            except queue.Empty:
                seconds += SILENT_SECONDS
                print_log(
                    f'{self.url}: no answer since {seconds:.0f} s; '
                    f'{n_running} requests wait, each at most '
                    f'{self._timeout:g} s.',
                    'current',
                    logging.WARNING,
                )

    def _answer(
        self, task: CaptionTask, fields: Mapping[str, Any]
    ) -> TaskAnswer:
        """Answer a task; an exception of any kind is its error."""
        started = time.perf_counter()
        try:
            status = check_image_file(task.image)
            data = read_file(task.image)
            if task.check_file is not None:
                task.check_file(data)
            content = message_content(task.prompt, data, task.image)
            reply = self._send(content, fields)
            return TaskAnswer(
                task,
                text=reply.text.strip(),
                tokens=reply.completion_tokens or 0,
                finished=reply.finish_reason == 'stop',
                seconds=time.perf_counter() - started,
                bytes=status.st_size,
                modified_ns=status.st_mtime_ns,
            )
        except Exception as error:
            return TaskAnswer(task, error)

    def _send(
        self, content: list[dict[str, Any]], fields: Mapping[str, Any]
    ) -> Reply:
        """Send one request; return a reply with a text.

        Raises:
            _RequestError: There is none.
        """
        try:
            reply = parse_reply(self._request(content, fields), self._key)
        except self._openai.OpenAIError as error:
            status = getattr(error, 'status_code', 0)
            raise _RequestError(
                f'{self.url}: {self._reason(error, self._timeout)}.',
                is_final=300 <= status < 400 or status in (401, 403, 404),
            ) from error
        except ValueError as error:
            raise _RequestError(f'{self.url}: {error}.') from error
        problem = None
        if not reply.has_message:
            problem = NO_MESSAGE + reply.note
        elif reply.finish_reason == 'content_filter':
            problem = CONTENT_FILTER
        elif not reply.has_text:
            problem = NO_TEXT + reply.note
        if problem is not None:
            raise _RequestError(f'{self.url}: {problem}.')
        return reply

    def _request(
        self, content: list[dict[str, Any]], fields: Mapping[str, Any]
    ) -> bytes:
        """Return the body of a response; repeat what may be temporary.

        Raises:
            openai.OpenAIError: There is none, of the last try.
        """
        send = partial(
            self._client.chat.completions.with_raw_response.create,
            model=self.model,
            messages=[dict(role='user', content=content)],
            extra_body=dict(fields),
        )
        wait, longest = WAIT_SECONDS
        for _ in range(_RETRIES):
            asked = 0.0
            try:
                return send().content
            except self._openai.APITimeoutError:
                raise
            except self._openai.APIConnectionError:
                pass
            except self._openai.APIStatusError as error:
                asked = retry_after(error.response.headers) or 0.0
                if (
                    not is_temporary(error.status_code)
                    or asked > _MAX_ASKED_SECONDS
                ):
                    raise
            # random: requests that failed together do not return together
            time.sleep(asked or wait * (1 - 0.25 * random.random()))
            wait = min(2 * wait, longest)
        return send().content

    def _reason(self, error: Exception, seconds: float) -> str:
        """Why a request with this time limit failed, without a full stop."""
        if isinstance(error, self._openai.APIStatusError):
            if target := error.response.headers.get('location'):
                return f'it redirects to {printable(target)}'
            message = response_message(error.body, self._key)
            asked = retry_after(error.response.headers) or 0
            if asked > _MAX_ASKED_SECONDS:
                message += f'; it asks to wait {asked:.0f} s'
            if error.status_code == 401 and self._key == NO_KEY:
                message += '; name the variable of its key by --api-key-env'
            return f'HTTP {error.status_code}: {message}'
        if isinstance(error, self._openai.APITimeoutError):
            return f'no answer within {seconds:g} s'
        if isinstance(error, self._openai.APIConnectionError):
            cause = error.__cause__ or error
            reason = f'the connection failed: {one_line(cause).rstrip(".")}'
            return reason + _proxy_note(self.url)
        return one_line(error).rstrip('.')


class _RequestError(UserError):
    """The server gives no answer to a request.

    Attributes:
        is_final: Whether no further request can be answered.
    """

    def __init__(self, message: str, is_final: bool = False) -> None:
        super().__init__(message)
        self.is_final = is_final


def request_fields(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a request for sampling parameters.

    Args:
        settings: As the command line gives them.

    Raises:
        ValueError: A parameter cannot be sent.
    """
    fields = dict(settings)
    for name in _NOT_SENT:
        if name in fields:
            raise ValueError(
                f'--{name.replace("_", "-")} does not go with --server: '
                'servers do not search with beams; omit it.'
            )
    samples = fields.pop('do_sample', None)
    if samples is False:
        fields['temperature'] = 0.0
    elif samples and 'temperature' not in fields:
        raise ValueError(
            'sampling on a server needs --temperature, e.g. --temperature 1.'
        )
    return {_NAMES.get(name, name): value for name, value in fields.items()}


def message_content(
    prompt: str, image: bytes, name: str
) -> list[dict[str, Any]]:
    """Return the content of a message about an image.

    Args:
        prompt: The prompt. The image is where it has ``<ImageHere>``, else
            before it.
        image: The bytes of an image file.
        name: Its name, for errors.

    Returns:
        Parts of the types ``text`` and ``image_url``.

    Raises:
        SampleError: The image cannot be read.
    """
    pixels = read_image(image, name)
    kind = 'jpeg'
    if not image.startswith(_JPEG):
        kind, buffer = 'png', io.BytesIO()
        pixels.save(buffer, 'PNG', compress_level=1)
        image = buffer.getvalue()
    url = f'data:image/{kind};base64,{base64.b64encode(image).decode()}'
    before, _, after = prompt.rpartition(IMAGE_HERE)
    parts: list[dict[str, Any]] = [  # a server writes the frame of an image
        dict(type='text', text=before.strip().removesuffix('<Img>').strip()),
        dict(type='image_url', image_url=dict(url=url)),
        dict(type='text', text=after.strip().removeprefix('</Img>').strip()),
    ]
    return [part for part in parts if part.get('text') != '']


def _proxy_note(url: str) -> str:
    """Say that requests go through a proxy, without its address."""
    parts = urlsplit(url)
    known = getproxies()
    if not {parts.scheme, 'all'} & known.keys() or proxy_bypass(parts.netloc):
        return ''
    return (
        f'; requests go through the proxy of {parts.scheme}_proxy or '
        'all_proxy, unless no_proxy names the host'
    )


def _base_url(url: str) -> str:
    """Return the base URL of an API.

    Raises:
        ValueError: It is not an address of a web server.
    """
    try:
        parts = urlsplit(url)
        valid = (
            parts.scheme in ('http', 'https')
            and bool(parts.hostname)
            and '@' not in parts.netloc  # would be in errors
        )
        _ = parts.port  # raises for an invalid one
    except ValueError:
        valid = False
    if not valid:
        raise ValueError(
            f'--server is {printable(url.rpartition("@")[2])}; expected the '
            "address of a server that follows OpenAI's API, without user and "
            'password, such as http://127.0.0.1:8000/v1.'
        )
    path = parts.path.rstrip('/') or '/v1'
    return parts._replace(path=path, query='', fragment='').geturl()
