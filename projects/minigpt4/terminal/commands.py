# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Interpret a line of a chat in the terminal: command, images, question."""

import errno
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from ..chat.saved_chat import is_saved_chat
from ..chat.session import ChatSession
from ..generation.parse_settings import complete_settings, parse_setting
from ..generation.sampling_params import SamplingParams
from ..images.read import read_image
from ..prompts import IMAGE_HERE
from ..utils.atomic import make_folder
from ..utils.errors import printable
from ..utils.text_files import read_text
from .typed_images import (
    download_image,
    is_web_address,
    parse_words,
    split_line,
)

_COMMAND = re.compile(r'/[a-z]+$')

# command: (its arguments, what it does)
HELP = {
    '/image': ('PATH...', 'add images to the next question'),
    '/regenerate': ('[name=value...]', 'answer the last question again'),
    '/reset': ('', 'start a new conversation'),
    '/save': ('FILE', 'write the conversation as JSON'),
    '/load': ('FILE', 'continue a saved conversation'),
    '/system': ('[TEXT]', 'show or change the system line; - for none'),
    '/settings': ('[name=value...]', 'show or change generation settings'),
    '/help': ('', 'show this list'),
    '/quit': ('', 'end the chat (Ctrl-D does too)'),
}


class View(Protocol):
    """Displays the answers and notes of a chat."""

    def show_answer(self, pieces: Iterable[str]) -> None:
        """Display an answer while it is generated."""

    def show_note(self, text: str) -> None:
        """Display a note that is not part of an answer."""

    def end_turn(self, question: str, session: ChatSession) -> None:
        """Display the end of a turn whose answer is complete."""


class Interpreter:
    """Interprets the lines of a chat.

    Args:
        session: The chat session.
        view: Displays answers and notes.

    Attributes:
        session: The chat session; ``/load`` replaces it.
        pending_images: Images of the next question: paths, or the bytes of
            downloaded files.
    """

    def __init__(self, session: ChatSession, view: View) -> None:
        self.session = session
        self.view = view
        self.pending_images: list[str | bytes] = []

    def run_line(self, line: str) -> bool:
        """Execute a line.

        Args:
            line: A command, or images and a question, or one of the two.

        Returns:
            Whether the chat continues.

        Raises:
            ValueError, OSError: The line cannot be executed; the message is
                one sentence.
        """
        line = line.strip()
        name, _, arguments = line.partition(' ')
        if name in ('/quit', '/exit'):
            return False
        if name in HELP:
            getattr(self, '_' + name[1:])(arguments.strip())
            return True
        if _COMMAND.match(name) and not Path(name).exists():
            raise ValueError(
                f'there is no command {name}; /help lists the commands.'
            )
        sources, question = split_line(line)
        self.add_images(sources)
        if question:
            self.ask(question)
        return True

    def add_images(self, sources: Iterable[str]) -> None:
        """Add images to the next question.

        Args:
            sources: Paths and web addresses.

        Raises:
            ValueError: An image cannot be read or downloaded; none is added.
        """
        images: list[str | bytes] = []
        notes = []
        first = len(self.pending_images) + 1
        for number, source in enumerate(sources, first):
            image: str | bytes = (
                download_image(source)
                if is_web_address(source)
                else str(Path(source).absolute())
            )
            width, height = read_image(image, source).size
            notes.append(
                f'image {number}: {_short(source)} ({width}x{height})'
            )
            images.append(image)
        self.pending_images += images
        for note in notes:
            self.view.show_note(note)

    def ask(self, question: str) -> None:
        """Ask a question about the pending images and the earlier turns.

        Args:
            question: The question.
        """
        images, self.pending_images = self.pending_images, []
        self._show(question, lambda: self.session.ask(question, images))

    def _show(self, question: str, ask: Callable[[], Iterator[str]]) -> None:
        """Generate an answer and display it with its notes."""
        session = self.session
        pieces = ask()
        if session.notice:
            self.view.show_note(session.notice)
        self.view.show_answer(pieces)
        assert session.last is not None
        if session.last.finish_reason == 'length':
            self.view.show_note(
                f'cut at {session.last.sampling_params.max_new_tokens} '
                'tokens; max_new_tokens is the setting'
            )
        if session.last.finish_reason == 'cancelled':
            self.view.show_note('stopped')
        self.view.end_turn(question, session)

    def _display_text(self, question: str) -> str:
        """A question of the history without image markup."""
        image = self.session.model.template.image
        return question.replace(image, IMAGE_HERE).replace(
            IMAGE_HERE, '[image]'
        )

    def _image(self, arguments: str) -> None:
        words = parse_words(arguments)
        if not words:
            raise ValueError('/image needs a path or a web address.')
        self.add_images(words)

    def _regenerate(self, arguments: str) -> None:
        settings = complete_settings(
            dict(map(parse_setting, arguments.split()))
        )
        turns = self.session.turns
        question = self._display_text(turns[-1].question) if turns else ''
        self._show(question, lambda: self.session.regenerate(**settings))
        last = self.session.last
        if last is not None and not last.sampling_params.do_sample:
            self.view.show_note(
                'without sampling the answer stays the same; '
                '/regenerate temperature=0.8 draws another'
            )

    def _reset(self, arguments: str) -> None:
        self.session.reset()
        self.pending_images = []
        self.view.show_note('a new conversation')

    def _save(self, arguments: str) -> None:
        path = _single_path('/save', arguments)
        save(self.session, path)
        self.view.show_note(f'saved: {printable(str(path))}')

    def _load(self, arguments: str) -> None:
        old = self.session
        self.session = ChatSession.load(
            _single_path('/load', arguments),
            old.engine,
            max_context=old.max_context,
            **old.settings,
        )
        self.pending_images = []
        for turn in self.session.turns:
            question = self._display_text(turn.question)
            self.view.show_note(f'you: {question}\nmodel: {turn.answer}')
        self.view.show_note(
            f'loaded: {len(self.session.turns)} turns, '
            f'{len(self.session.images)} images'
        )

    def _system(self, arguments: str) -> None:
        if arguments:
            self.session.system = '' if arguments == '-' else arguments
        model, system = self.session.model, self.session.system
        if system is None:
            system = model.system
        if system is None:
            system = model.template.system
        self.view.show_note(f'system line: {system or "none"}')

    def _settings(self, arguments: str) -> None:
        changes = dict(map(parse_setting, arguments.split()))
        settings = complete_settings({**self.session.settings, **changes})
        self.session.settings = settings
        effective = asdict(
            SamplingParams.of(self.session.model.generation, settings)
        )
        del effective['logprobs']  # the chat does not display them
        self.view.show_note(' '.join(f'{k}={v}' for k, v in effective.items()))

    def _help(self, arguments: str) -> None:
        usages = {f'{name} {text[0]}': text[1] for name, text in HELP.items()}
        width = max(map(len, usages))
        lines = [f'{usage:{width}}  {text}' for usage, text in usages.items()]
        lines.append(
            'A path or a file that is dragged in adds an image; Ctrl-C '
            'stops an answer; \\ at the end of a line continues it in the '
            'next.'
        )
        self.view.show_note('\n'.join(lines))


def save(session: ChatSession, path: Path) -> None:
    """Write a conversation; overwrite only a saved chat.

    Args:
        session: The conversation.
        path: The file to write.

    Raises:
        FileExistsError: The file exists and is not a saved chat.
        OSError: The file cannot be written.
    """
    check_save(path)
    session.save(path)


def check_save(path: Path) -> None:
    """Check before a chat that it can be saved after it.

    Args:
        path: The file to write.

    Raises:
        FileExistsError: The file exists and is not a saved chat.
        OSError: Its folder cannot be created or written.
    """
    make_folder(path.parent)
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(
            errno.EACCES, os.strerror(errno.EACCES), str(path.parent)
        )
    if path.exists() and not _contains_chat(path):
        raise FileExistsError(
            f'{printable(str(path))} exists and is not a saved chat; give '
            'another name.'
        )


def _contains_chat(path: Path) -> bool:
    try:
        return is_saved_chat(read_text(path))
    except (OSError, ValueError):
        return False


def _single_path(command: str, arguments: str) -> Path:
    words = parse_words(arguments)
    if len(words) != 1:
        raise ValueError(
            f'{command} needs one file, not {len(words)}; quote a name with '
            'blanks.'
        )
    return Path(words[0])


def _short(source: str) -> str:
    source = printable(source)
    return source if len(source) <= 60 else '...' + source[-57:]
