# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""What a line that is typed in a chat does: commands, pictures, questions."""

import asyncio
import errno
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from ..captioning.batch import check_picture
from ..captioning.table import make_folder
from ..chat.session import ChatSession
from ..generation.sampling import SamplingParams
from ..generation.settings import complete_settings, parse_setting
from ..images.read import read_image
from ..prompts import IMAGE_HERE
from ..utils.errors import printable
from ..utils.regular_files import read_text
from .typed_images import is_web_address, split_line, words_of

MAX_BYTES = 50 * 2**20  # of a picture that is fetched
SECONDS = 30.0  # to fetch it
_COMMAND = re.compile(r'/[a-z]+$')

# command: (what follows it, what it does)
HELP = {
    '/image': ('PATH...', 'show pictures with the next question'),
    '/regenerate': ('[name=value...]', 'answer the last question again'),
    '/reset': ('', 'forget the conversation and its pictures'),
    '/save': ('FILE', 'write the conversation as JSON'),
    '/load': ('FILE', 'go on with a conversation that was saved'),
    '/system': ('[TEXT]', 'change the line that opens the chat; - for none'),
    '/settings': ('[name=value...]', 'show or change how answers are made'),
    '/help': ('', 'this list'),
    '/quit': ('', 'leave (or Ctrl-D)'),
}


class View(Protocol):
    """Where answers and remarks go."""

    def answer(self, pieces: Iterable[str]) -> None:
        """Show an answer while it comes."""

    def note(self, text: str) -> None:
        """Show a remark that is no answer."""

    def done(self, question: str, session: ChatSession) -> None:
        """An answer is complete."""


class Conversation:
    """A chat that is has_worker by lines.

    Args:
        session: The chat.
        view: Where answers and remarks go.

    Attributes:
        pending: Pictures for the next question, as a session takes them.
    """

    def __init__(self, session: ChatSession, view: View) -> None:
        self.session = session
        self.view = view
        self.pending: list[str | bytes] = []

    def take(self, line: str) -> bool:
        """Do what a line says.

        Args:
            line: A command, pictures, a question, or pictures and a question.

        Returns:
            Whether the chat goes on.

        Raises:
            ValueError, OSError: It cannot be done; one sentence says why.
        """
        line = line.strip()
        name, _, rest = line.partition(' ')
        if name in ('/quit', '/exit'):
            return False
        if name in HELP:
            getattr(self, '_' + name[1:])(rest.strip())
            return True
        if _COMMAND.match(name) and not Path(name).exists():
            raise ValueError(
                f'there is no command {name}; /help lists the commands.'
            )
        sources, question = split_line(line)
        self.attach(sources)
        if question:
            self.ask(question)
        return True

    def attach(self, sources: Iterable[str]) -> None:
        """Have pictures ready for the next question.

        Args:
            sources: Paths and web addresses.

        Raises:
            ValueError: One cannot be read or fetched; none is taken then.
        """
        new: list[str | bytes] = []
        notes = []
        for number, source in enumerate(sources, len(self.pending) + 1):
            picture: str | bytes = str(Path(source).absolute())
            if is_web_address(source):
                picture = fetch(source)
            else:
                check_picture(source)
            size = 'x'.join(map(str, read_image(picture, source).size))
            notes.append(f'picture {number}: {_short(source)} ({size})')
            new.append(picture)
        self.pending += new
        for note in notes:
            self.view.note(note)

    def ask(self, question: str) -> None:
        """Ask about what is pending and what was shown before."""
        images, self.pending = self.pending, []
        self._show(question, lambda: self.session.ask(question, images))

    def _show(self, question: str, ask: Callable[[], Iterator[str]]) -> None:
        """Show an answer and what there is to say about it."""
        session = self.session
        pieces = ask()
        if session.notice:  # before the answer, which may look odd without
            self.view.note(session.notice)
        self.view.answer(pieces)
        assert session.last is not None
        if session.last.finish_reason == 'length':
            self.view.note(
                f'cut at {session.last.sampling_params.max_new_tokens} '
                'tokens; max_new_tokens is the setting'
            )
        if session.last.finish_reason == 'cancelled':
            self.view.note('stopped')
        self.view.done(question, session)

    def _shown(self, question: str) -> str:
        """A question of the history as its user would write it."""
        image = self.session.model.template.image
        bare = question.replace(image, IMAGE_HERE)
        return bare.replace(IMAGE_HERE, '[picture]')

    def _image(self, rest: str) -> None:
        words = words_of(rest)
        if not words:
            raise ValueError('/image needs a path or a web address.')
        self.attach(words)

    def _regenerate(self, rest: str) -> None:
        settings = complete_settings(dict(map(parse_setting, rest.split())))
        turns = self.session.turns
        question = self._shown(turns[-1].question) if turns else ''
        self._show(question, lambda: self.session.regenerate(**settings))
        last = self.session.last
        if last is not None and not last.sampling_params.do_sample:
            self.view.note(
                'without sampling the answer stays the same; '
                '/regenerate temperature=0.8 draws another'
            )

    def _reset(self, rest: str) -> None:
        self.session.reset()
        self.pending = []
        self.view.note('a new conversation')

    def _save(self, rest: str) -> None:
        path = _one_path('/save', rest)
        save(self.session, path)
        self.view.note(f'saved: {printable(str(path))}')

    def _load(self, rest: str) -> None:
        old = self.session
        self.session = ChatSession.load(
            _one_path('/load', rest),
            old.engine,
            max_context=old.max_context,
            **old.settings,
        )
        self.pending = []
        for turn in self.session.turns:
            question = self._shown(turn.question)
            self.view.note(f'you: {question}\nmodel: {turn.answer}')
        self.view.note(
            f'loaded: {len(self.session.turns)} turns, '
            f'{len(self.session.images)} pictures'
        )

    def _system(self, rest: str) -> None:
        if rest:
            self.session.system = '' if rest == '-' else rest
        model, system = self.session.model, self.session.system
        if system is None:
            system = model.system
        if system is None:
            system = model.template.system
        self.view.note(f'system line: {system or "none"}')

    def _settings(self, rest: str) -> None:
        new = dict(map(parse_setting, rest.split()))
        settings = complete_settings({**self.session.settings, **new})
        self.session.settings = settings
        shown = asdict(
            SamplingParams.of(self.session.model.generation, settings)
        )
        self.view.note(' '.join(f'{k}={v}' for k, v in shown.items()))

    def _help(self, rest: str) -> None:
        width = max(len(f'{k} {v[0]}') for k, v in HELP.items())
        lines = [f'{f"{k} {v[0]}":{width}}  {v[1]}' for k, v in HELP.items()]
        lines.append(
            'A path or a file that is dragged in shows a picture; Ctrl-C '
            'stops an answer; \\ at the end goes on in the next line.'
        )
        self.view.note('\n'.join(lines))


def save(session: ChatSession, path: Path) -> None:
    """Write a conversation; no other file is overwritten than such a one.

    Raises:
        FileExistsError: Something else is there.
        OSError: It cannot be written.
    """
    check_save(path)
    session.save(path)


def check_save(path: Path) -> None:
    """Refuse before a chat what could not be written after it.

    Raises:
        FileExistsError: The file exists and is no saved chat.
        OSError: Its folder cannot be made or written.
    """
    make_folder(path.parent)
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(
            errno.EACCES, os.strerror(errno.EACCES), str(path.parent)
        )
    if path.exists() and not _is_chat(path):
        raise FileExistsError(
            f'{printable(str(path))} exists and is no saved chat; give '
            'another name.'
        )


def _is_chat(path: Path) -> bool:
    try:
        content: Any = json.loads(read_text(path))
    except (OSError, RecursionError, ValueError):
        return False
    return isinstance(content, dict) and 'turns' in content


def _one_path(command: str, rest: str) -> Path:
    words = words_of(rest)
    if len(words) != 1:
        raise ValueError(
            f'{command} needs one file, not {len(words)}; a name with blanks '
            'stands in quotes.'
        )
    return Path(words[0])


def fetch(url: str) -> bytes:
    """Download an image for the user who typed its URL.

    Unlike the client of a server, the user may name any host.

    Raises:
        ValueError: It cannot be downloaded.
    """
    try:
        from ..images.fetch import ImageFetcher
    except ImportError as error:
        raise ValueError(
            'to fetch an image httpcore is needed; pip install '
            "'minigpt4[serve]', or save the image and give its path."
        ) from error
    fetcher = ImageFetcher(
        MAX_BYTES,
        SECONDS,
        any_host=True,
        fallback='save the image and give its path',
    )
    return asyncio.run(fetcher.fetch(url))


def _short(source: str) -> str:
    source = printable(source)
    return source if len(source) <= 60 else '...' + source[-57:]
