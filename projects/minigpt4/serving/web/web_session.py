# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A visit to the web page: one browser's chat, and what is shown of it.

Uses the engine and files, and nothing of Gradio.
"""

import base64
import io
import logging
import re
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from ...chat.session import ChatSession
from ...generation.worker import EngineWorker, QueueFull
from ...images.sources import ImageSources
from ...utils.errors import one_line, printable
from ...utils.regular_files import read_regular
from ..http.json_values import number
from ..http.requests import RequestLimits
from .uploads import Uploads

WAYS = ('Greedy', 'Sampling', 'Beams')
MOST_BEAMS = 10  # that the page offers
_REDRAW = 0.05  # seconds between two looks at an answer that grows
_THUMBNAIL = 384  # pixels, the longer side of a picture in Markdown
_ENDS = dict(length=', cut at the longest answer', cancelled=', stopped')
_CODE = re.compile(r'(```.*?(?:```|\Z)|`[^`\n]+`)', re.DOTALL)

_DECODING = threading.Semaphore(2)  # a large picture takes much memory

logger = logging.getLogger(__name__)


class Busy(ValueError):
    """An answer of the same chat is still being written."""


@dataclass
class Shown:
    """A turn as the page shows it.

    Attributes:
        question: What was asked.
        files: Its pictures as they are shown: small JPEG files.
        thumbnails: The same as data URLs, for the export.
        answer: The answer so far.
    """

    question: str
    files: list[str] = field(default_factory=list)
    thumbnails: list[str] = field(default_factory=list)
    answer: str = ''


class WebSession:
    """One browser's chat, which nobody else sees.

    Args:
        worker: Runs the engine for all visits.
        sources: Reads pictures, with limits.
        max_images: The most pictures of one turn.
        max_text: The most characters of one question.
        max_seconds: The longest that an answer may take, waiting included;
            None for no limit.
        uploads: The uploaded files, of which those of an answered question
            are removed; without it any file may be named.

    Attributes:
        chat: The chat.
        shown: Its turns as the page shows them.
        ended: Whether the browser has left it.
    """

    def __init__(
        self,
        worker: EngineWorker,
        sources: ImageSources | None = None,
        max_images: int = 8,
        max_text: int = RequestLimits.text,
        max_seconds: float | None = None,
        uploads: Uploads | None = None,
    ) -> None:
        self.worker = worker
        self.sources = sources or ImageSources()
        self.max_images = max_images
        self.max_text = max_text
        self.max_seconds = max_seconds
        self.uploads = uploads
        self.chat = ChatSession(worker)
        self.shown: list[Shown] = []
        self.ended = False
        self._busy = threading.Lock()
        self._folder: tempfile.TemporaryDirectory | None = None
        self._pictures = 0  # shown so far

    def ask(
        self, question: str, files: Sequence[str] = (), **settings
    ) -> Iterator[None]:
        """Ask; ``shown[-1].answer`` has grown at each step.

        Args:
            question: The question; without one the model's own is asked.
            files: Pictures that belong to it.
            settings: Of generation.

        Raises:
            ValueError: A picture cannot be read, there are too many, nothing
                is asked, or an answer is still being written.
            QueueFull: Too many others wait.
        """
        if len(files) > self.max_images:
            raise ValueError(
                f'{len(files)} pictures were given; send at most '
                f'{self.max_images} with one question.'
            )
        if len(question) > self.max_text:
            raise ValueError(
                f'the question has {len(question):,} characters; at most '
                f'{self.max_text:,} are allowed: shorten it.'
            )
        if not question.strip() and not files:
            raise ValueError('nothing was asked; write a question.')
        question = question.strip() or self.chat.model.prompt
        with self._alone():
            turn = Shown(question)
            images = []
            for file in files:
                with _DECODING:
                    image, thumbnail = self._read(file)
                images.append(image)
                turn.files.append(self._keep(thumbnail))
                turn.thumbnails.append(_data_url(thumbnail))
            self.shown.append(turn)
            try:
                yield  # the question is seen before the model has read it
                pieces = self.chat.ask(question, images, **settings)
                yield from self._follow(turn, pieces)
            except Exception:
                self.shown.pop()
                files = ()  # they return to the box with the question
                raise
            finally:
                if self.uploads is not None:
                    for file in files:
                        self.uploads.remove(file)

    def regenerate(self, **settings) -> Iterator[None]:
        """Answer the last question anew.

        Raises:
            ValueError: There is none, or an answer is still being written.
            QueueFull: Too many others wait; the old answer stays.
        """
        with self._alone():
            if not self.shown:
                raise ValueError('nothing was asked yet; ask something first.')
            turn = self.shown[-1]
            old = turn.answer
            try:
                turn.answer = ''
                yield from self._follow(turn, self.chat.regenerate(**settings))
            except Exception:
                turn.answer = old
                raise

    def stop(self) -> None:
        """End the answer that is being written; its text so far stays."""
        self.chat.cancel()

    def end(self) -> None:
        """The browser has left; end the answer and remove the files."""
        self.ended = True
        self.stop()
        if self._busy.acquire(blocking=False):
            self._release()

    @property
    def notice(self) -> str:
        """What the chat says of itself, e.g. that its context is full."""
        return self.chat.notice or ''

    @property
    def cost(self) -> str:
        """What prompt and answer took, and whether the answer is whole."""
        last = self.chat.last
        if last is None:
            return ''
        end = _ENDS.get(last.finish_reason or '', '')
        return (
            f'Prompt: {last.prompt_tokens} tokens, {last.reused_tokens} of '
            f'them kept from before. Answer: {len(last.token_ids)} tokens'
            f'{end}.'
        )

    def export(self) -> list[str]:
        """Write the chat as JSON and as Markdown; returns the files.

        Raises:
            ValueError: There is nothing to write.
        """
        if not self.shown:
            raise ValueError('the chat is empty; there is nothing to export.')
        stem = self._own_folder() / 'minigpt4_chat'
        files = [stem.with_suffix('.json'), stem.with_suffix('.md')]
        self.chat.save(files[0])
        files[1].write_text(markdown(self.shown), encoding='utf-8')
        return [str(file) for file in files]

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the chat; two answers of one chat cannot grow at once."""
        if not self._busy.acquire(blocking=False):
            raise Busy(
                'an answer is still being written; wait for it or stop it.'
            )
        try:
            yield
        finally:
            self._release()

    def _release(self) -> None:
        """Let the chat continue; without its files if the browser has left."""
        if self.ended and self._folder is not None:
            self._folder.cleanup()
            self._folder = None
        self._busy.release()

    def _own_folder(self) -> Path:
        """The folder of the files that are shown or exported."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix='minigpt4-')
        return Path(self._folder.name)

    def _keep(self, thumbnail: bytes) -> str:
        """Write a picture to be shown; returns its path."""
        self._pictures += 1
        path = self._own_folder() / f'picture{self._pictures}.jpg'
        path.write_bytes(thumbnail)
        return str(path)

    def _read(self, file: str) -> tuple[Image.Image, bytes]:
        """A picture as the model sees it, and a small one as a JPEG file.

        The chat keeps the first and not what a camera gave: the answers are
        the same, and the exported chat is small.
        """
        if self.uploads is not None:
            self.uploads.check(file)
        size = Path(file).stat().st_size
        limit = self.sources.limits.bytes
        if size > limit:
            raise ValueError(
                f'{printable(Path(file).name)} has {size:,} bytes; at most '
                f'{limit:,} are allowed: send a smaller picture.'
            )
        picture = self.sources.decode(read_regular(file))
        side = self.chat.model.image_size
        seen = picture.resize((side, side), Image.Resampling.BICUBIC)
        return seen, _thumbnail(picture)

    def _follow(self, turn: Shown, pieces: Iterator[str]) -> Iterator[None]:
        """Let an answer grow, and look at it now and then."""
        looked = 0.0
        # closed with the browser's tab, which ends the answer
        with closing(pieces), self._timed():  # type: ignore[type-var]
            for piece in pieces:
                turn.answer += piece
                if time.monotonic() - looked >= _REDRAW:
                    yield
                    looked = time.monotonic()
        yield

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """Stop an answer that takes too long."""
        if self.max_seconds is None:
            yield
            return
        timer = threading.Timer(self.max_seconds, self.stop)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def settings_of(
    way: str,
    temperature: float,
    top_p: float,
    seed: float | None,
    num_beams: float,
    max_new_tokens: float,
    *,
    limits: RequestLimits | None = None,
) -> dict[str, Any]:
    """The settings of generation of the controls of the page.

    A browser may send any value for them, so they are checked here.

    Args:
        way: One of :data:`WAYS`.
        temperature: Of sampling, up to 2.
        top_p: Of sampling, up to 1.
        seed: Of sampling; None for another answer each time.
        num_beams: Of a search.
        max_new_tokens: The longest answer.
        limits: What may be asked for; by default up to 10 beams.

    Raises:
        ValueError: A value is of another type or out of its range.
    """
    limits = limits or RequestLimits(beams=MOST_BEAMS)
    if way not in WAYS:
        raise ValueError(
            f'the way to choose words is unknown; expected {", ".join(WAYS)}.'
        )
    settings: dict[str, Any] = dict(
        max_new_tokens=number(
            'the longest answer', max_new_tokens, 1, limits.max_tokens, True
        ),
        do_sample=way == 'Sampling',
    )
    if way == 'Sampling':
        settings.update(
            temperature=number('temperature', temperature, 0.01, 2),
            top_p=number('top-p', top_p, 0.01, 1),
        )
        if seed is not None:
            settings['seed'] = number(
                'seed', seed, -(2**63), 2**63 - 1, integer=True
            )
    elif way == 'Beams':
        settings['num_beams'] = number(
            'beams', num_beams, 1, limits.beams, integer=True
        )
    return settings


def messages(shown: Sequence[Shown]) -> list[dict[str, Any]]:
    """The turns as a chatbot's messages, pictures first."""
    found: list[dict[str, Any]] = []
    for turn in shown:
        found += [
            dict(role='user', content={'path': file}) for file in turn.files
        ]
        if turn.question:
            found.append(dict(role='user', content=as_text(turn.question)))
        found.append(dict(role='assistant', content=as_text(turn.answer)))
    return found


def as_text(text: str) -> str:
    """Text whose ``<`` are letters, so that a web page in it is shown.

    Code between backticks is left alone: there they are letters anyway.
    """
    parts = _CODE.split(text)
    return ''.join(
        part if i % 2 else part.replace('&', '&amp;').replace('<', '&lt;')
        for i, part in enumerate(parts)
    )


def markdown(shown: Sequence[Shown]) -> str:
    """The chat as Markdown that needs nothing but itself."""
    lines = ['# A chat with MiniGPT-4']
    for turn in shown:
        lines.append('**Question:** ' + turn.question)
        for i, picture in enumerate(turn.thumbnails, 1):
            lines.append(f'![picture {i}]({picture})')
        lines.append('**Answer:** ' + turn.answer.replace('\n', '  \n'))
    return '\n\n'.join(lines) + '\n'


def _thumbnail(picture: Image.Image) -> bytes:
    """Make a picture small; returns it as a JPEG file."""
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    out = io.BytesIO()
    picture.save(out, 'JPEG', quality=85)
    return out.getvalue()


def _data_url(jpeg: bytes) -> str:
    return 'data:image/jpeg;base64,' + base64.b64encode(jpeg).decode()


def sentence(error: Exception) -> str:
    """Why something failed, in one sentence; surprises are logged too."""
    if isinstance(error, QueueFull):
        return f'Too many people ask at the moment: {error}'
    reason = one_line(error) if str(error).strip() else 'no reason given'
    if isinstance(error, ValueError) and str(error).strip():
        return reason
    logger.error('the web page could not answer', exc_info=error)
    return f'{type(error).__name__}: {reason}'
