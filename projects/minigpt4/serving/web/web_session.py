# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A session of the web page: the chat of one browser tab.

Uses the engine and files, not Gradio.
"""

import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from ...chat.session import ChatSession
from ...generation.worker import EngineWorker
from ...images.request_images import ImageSources
from ...images.thumbnail import data_url, thumbnail
from ...utils.errors import printable
from ...utils.regular_files import read_regular
from ..http.request_limits import RequestLimits
from .display import DisplayedTurn, chat_markdown
from .uploads import Uploads

_UPDATE_SECONDS = 0.05  # between two updates of an answer on the page
_THUMBNAIL_SIDE = 384  # pixels
_END_SECONDS = 10  # for a cancelled answer to end
_END_TEXTS = dict(length=', cut at the maximum length', cancelled=', stopped')

# decoding a large image takes much memory
_decode_slots = threading.Semaphore(2)


class SessionBusy(ValueError):
    """The previous answer of the same chat is still being generated."""


class WebSession:
    """The chat of one browser tab, which no other tab can access.

    Args:
        worker: Runs the engine for all sessions.
        sources: Decodes images, with limits.
        max_images: The most images of one turn.
        max_text: The most characters of one question.
        max_seconds: The longest time for an answer, waiting included; None
            for no limit.
        uploads: The uploaded files. Those of an answered question are
            deleted. Without it any file may be named and none is deleted.

    Attributes:
        chat: The chat session.
        turns: Its turns as the page displays them.
        closed: Whether the browser tab has been closed or the chat cleared.
        previous: The session that this one replaces, while it may have an
            answer that has not ended. The first answer waits for that end,
            so that the page draws the last update of the old answer before
            an update of the new one.
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
        self.turns: list[DisplayedTurn] = []
        self.closed = False
        self.previous: WebSession | None = None
        self._answer_lock = threading.Lock()
        self._folder: tempfile.TemporaryDirectory | None = None
        self._num_thumbnails = 0

    def ask(
        self, question: str, files: Sequence[str] = (), **settings: Any
    ) -> Iterator[None]:
        """Ask; ``turns[-1].answer`` has grown after each step.

        Args:
            question: The question. An empty one with images is replaced by
                the model's own prompt.
            files: Paths of the images of the question.
            settings: Generation settings.

        Raises:
            ValueError: An image cannot be read, there are too many, the
                question is empty or too long, or an answer is still being
                generated.
            QueueFull: Too many requests wait.
        """
        if len(files) > self.max_images:
            raise ValueError(
                f'{len(files)} images were given; send at most '
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
        with self._exclusive():
            turn = DisplayedTurn(question)
            images = []
            for file in files:
                with _decode_slots:
                    image, jpeg = self._read(file)
                images.append(image)
                turn.files.append(self._write_thumbnail(jpeg))
                turn.thumbnails.append(data_url(jpeg))
            self.turns.append(turn)
            try:
                yield  # displays the question before the prefill
                pieces = self.chat.ask(question, images, **settings)
                yield from self._stream(turn, pieces)
            except Exception:
                self.turns.pop()
                files = ()  # the box gets them back with the question
                raise
            finally:
                if self.uploads is not None:
                    for file in files:
                        self.uploads.remove(file)

    def regenerate(self, **settings: Any) -> Iterator[None]:
        """Answer the last question again; steps as for :meth:`ask`.

        Args:
            settings: Generation settings.

        Raises:
            ValueError: There is no question, or an answer is still being
                generated.
            QueueFull: Too many requests wait; the old answer remains.
        """
        with self._exclusive():
            if not self.turns:
                raise ValueError('nothing was asked yet; ask something first.')
            turn = self.turns[-1]
            old = turn.answer
            try:
                turn.answer = ''
                pieces = self.chat.regenerate(**settings)
                yield from self._stream(turn, pieces)
            except Exception:
                turn.answer = old
                raise

    def stop(self) -> None:
        """Cancel the answer that is being generated; its text remains."""
        self.chat.cancel()

    def close(self) -> None:
        """Cancel the answer and delete the files."""
        self.closed = True
        self.stop()
        if self._answer_lock.acquire(blocking=False):
            self._release()

    def replace(self, previous: 'WebSession') -> None:
        """Close a session, which this one replaces."""
        previous.close()
        is_answering = previous._answer_lock.locked()
        self.previous = previous if is_answering else previous.previous

    @property
    def notice(self) -> str:
        """The notice about the last prompt, such as dropped turns."""
        return self.chat.notice or ''

    @property
    def usage(self) -> str:
        """The tokens of the last turn, and whether its answer was cut."""
        last = self.chat.last
        if last is None:
            return ''
        end = _END_TEXTS.get(last.finish_reason or '', '')
        return (
            f'Prompt: {last.prompt_tokens} tokens, {last.reused_tokens} of '
            f'them cached. Answer: {len(last.token_ids)} tokens{end}.'
        )

    def export(self) -> list[str]:
        """Write the chat as JSON and as Markdown; returns the two paths.

        Raises:
            ValueError: The chat is empty.
        """
        if not self.turns:
            raise ValueError('the chat is empty; there is nothing to export.')
        stem = self._own_folder() / 'minigpt4_chat'
        files = [stem.with_suffix('.json'), stem.with_suffix('.md')]
        self.chat.save(files[0])
        files[1].write_text(chat_markdown(self.turns), encoding='utf-8')
        return [str(file) for file in files]

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Allow one answer of a chat at a time."""
        if not self._answer_lock.acquire(blocking=False):
            raise SessionBusy(
                'an answer is still being written; wait for it or stop it.'
            )
        try:
            if self.previous is not None:
                self.previous._wait_for_end()
                self.previous = None
            yield
        finally:
            self._release()

    def _wait_for_end(self) -> None:
        """Wait for the end of an answer, which has been cancelled.

        The wait is limited because Gradio neither continues nor closes the
        answer of an interrupted connection.
        """
        if self._answer_lock.acquire(timeout=_END_SECONDS):
            self._release()

    def _release(self) -> None:
        """Allow the next answer; delete the files of a closed session."""
        if self.closed and self._folder is not None:
            self._folder.cleanup()
            self._folder = None
        self._answer_lock.release()

    def _own_folder(self) -> Path:
        """The folder of the thumbnails and exported files."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix='minigpt4-')
        return Path(self._folder.name)

    def _write_thumbnail(self, jpeg: bytes) -> str:
        """Write a thumbnail; returns its path."""
        self._num_thumbnails += 1
        path = self._own_folder() / f'image{self._num_thumbnails}.jpg'
        path.write_bytes(jpeg)
        return str(path)

    def _read(self, file: str) -> tuple[Image.Image, bytes]:
        """Read an image at the model's resolution, and its thumbnail.

        The chat stores the first, not the uploaded image: the answers are
        the same, and the exported chat is small.
        """
        if self.uploads is not None:
            self.uploads.check(file)
        size = Path(file).stat().st_size
        limit = self.sources.limits.bytes
        if size > limit:
            raise ValueError(
                f'{printable(Path(file).name)} has {size:,} bytes; at most '
                f'{limit:,} are allowed: send a smaller image.'
            )
        image = self.sources.decode(read_regular(file))
        side = self.chat.model.image_size
        resized = image.resize((side, side), Image.Resampling.BICUBIC)
        return resized, thumbnail(image, _THUMBNAIL_SIDE)

    def _stream(
        self, turn: DisplayedTurn, pieces: Iterator[str]
    ) -> Iterator[None]:
        """Append an answer to a turn; steps at most every 50 ms."""
        last_update = 0.0
        # closed with the browser tab, which cancels the answer
        with closing(pieces), self._time_limit():  # type: ignore[type-var]
            for piece in pieces:
                turn.answer += piece
                if time.monotonic() - last_update >= _UPDATE_SECONDS:
                    yield
                    last_update = time.monotonic()
        yield

    @contextmanager
    def _time_limit(self) -> Iterator[None]:
        """Cancel an answer that takes too long."""
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
