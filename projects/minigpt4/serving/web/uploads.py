# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The pictures that browsers upload: where they are, how many, how long.

Gradio writes them below one folder and has no limit for all of them. Here
their bytes are counted, in all and per client, and each file is removed when
its question is answered, or unused for too long.
"""

import atexit
import contextlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ...utils.regular_files import open_regular

UNUSED_SECONDS = 30 * 60  # that an upload is kept without being used
MOST_FILES = 4096  # of all clients
_SHARE = 4  # a client may have one part of so many


class UploadError(ValueError):
    """An upload or a path that is refused; its text gives the reason."""


@dataclass(frozen=True)
class _Upload:
    """One uploaded file."""

    client: str
    size: int
    time: float


class Uploads:
    """The uploaded files of one page; may be used from several threads.

    Args:
        folder: Where Gradio writes them.
        most_bytes: The most of all clients; one client may have a quarter.
        most_file_bytes: The most of one file.
        own_folders: Folders of the program whose files a browser may name
            too; nothing in them is removed.
    """

    def __init__(
        self,
        folder: 'str | os.PathLike',
        most_bytes: int,
        most_file_bytes: int,
        own_folders: tuple[Path, ...] = (),
    ) -> None:
        self.folder = Path(folder).resolve()
        self.most_bytes = most_bytes
        self.most_file_bytes = most_file_bytes
        self.own_folders = tuple(Path(f).resolve() for f in own_folders)
        self._files: dict[Path, _Upload] = {}
        self._arriving: dict[str, int] = {}  # bytes by client
        self._lock = threading.Lock()

    def check(self, path: object) -> Path:
        """Refuse a path that no upload of this page has.

        Args:
            path: What a browser sent as the path of a file.

        Raises:
            UploadError: It is not a text, outside of the folders, not a
                regular file, or too large.
        """
        refused = UploadError(
            'a file of the question is not among the uploaded ones; upload '
            'it again.'
        )
        if not isinstance(path, str) or len(path) > 4096:
            raise refused
        try:
            real = Path(path).resolve()
            if not any(
                real.is_relative_to(folder)
                for folder in (self.folder, *self.own_folders)
            ):
                raise refused
            with open_regular(real) as file:
                size = os.fstat(file.fileno()).st_size
        except UploadError:
            raise
        except (OSError, RuntimeError, ValueError) as error:
            raise refused from error
        if size > self.most_file_bytes:
            raise UploadError(
                f'{real.name} has {size:,} bytes; at most '
                f'{self.most_file_bytes:,} are allowed: send a smaller '
                'picture.'
            )
        return real

    @contextlib.contextmanager
    def arriving(self, client: str, size: int) -> Iterator[None]:
        """Count bytes of an upload while it arrives.

        Args:
            client: Who sends it.
            size: Its bytes, or the most that it may have.

        Raises:
            UploadError: There is no room for it.
        """
        self.remove_unused()
        with self._lock:
            own = sum(
                f.size for f in self._files.values() if f.client == client
            )
            own += self._arriving.get(client, 0)
            total = sum(f.size for f in self._files.values())
            total += sum(self._arriving.values())
            if (
                total + size > self.most_bytes
                or own + size > self.most_bytes // _SHARE
                or len(self._files) >= MOST_FILES
            ):
                raise UploadError(
                    'too many uploaded pictures wait for their questions; '
                    'ask about them, or try again later.'
                )
            self._arriving[client] = self._arriving.get(client, 0) + size
        try:
            yield
        finally:
            with self._lock:
                self._arriving[client] -= size
                if not self._arriving[client]:
                    del self._arriving[client]

    def add(self, client: str, paths: list[str]) -> None:
        """Count files that have arrived."""
        now = time.time()
        for path in paths:
            real = Path(path).resolve()
            with contextlib.suppress(FileNotFoundError):
                upload = _Upload(client, real.stat().st_size, now)
                with self._lock:
                    self._files[real] = upload

    def remove(self, path: 'str | os.PathLike') -> None:
        """Remove an uploaded file; one of the program itself is kept."""
        real = Path(path).resolve()
        if not real.is_relative_to(self.folder):
            return
        with self._lock:
            self._files.pop(real, None)
        with contextlib.suppress(FileNotFoundError):
            real.unlink()

    def remove_unused(self) -> None:
        """Remove what was uploaded long ago, and what never was complete."""
        oldest = time.time() - UNUSED_SECONDS
        with self._lock:
            old = [p for p, each in self._files.items() if each.time < oldest]
        for path in self.folder.glob('*'):  # a file is written here first
            with contextlib.suppress(FileNotFoundError):
                if path.is_file() and path.stat().st_mtime < oldest:
                    old.append(path)
        for path in old:
            self.remove(path)


@cache
def upload_folder() -> str:
    """A folder for the uploads of this process, which others cannot read.

    It is removed when the process ends. ``GRADIO_TEMP_DIR`` names another.
    """
    folder = os.environ.get('GRADIO_TEMP_DIR')
    if not folder:
        folder = tempfile.mkdtemp(prefix='minigpt4-page-')
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ['GRADIO_TEMP_DIR'] = folder
    return folder
