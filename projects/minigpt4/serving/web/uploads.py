# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The uploaded files of the web page: location, limits and deletion.

Gradio writes them below one folder and has no limit on their total size.
Here their bytes are counted, in total and per client. Each file is deleted
when its question is answered, or after some time without being used.
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

UNUSED_SECONDS = 30 * 60  # after which an unused upload is deleted
MAX_FILES = 4096  # of all clients
_CLIENT_SHARE = 0.25  # of all bytes, for one client


class UploadError(ValueError):
    """An upload or a path is refused; the message gives the reason."""


@dataclass(frozen=True)
class _Upload:
    """One uploaded file.

    Attributes:
        client: IP address of the client.
        size: Bytes of the file.
        time: When it was uploaded, in seconds since the epoch.
    """

    client: str
    size: int
    time: float


class Uploads:
    """The uploaded files of one page; thread-safe.

    Args:
        folder: The folder that Gradio writes them to.
        max_bytes: The most bytes of all clients; one client may use a
            quarter.
        max_file_bytes: The most bytes of one file.
        package_folders: Folders of the package whose files a client may name
            too; nothing in them is deleted.
    """

    def __init__(
        self,
        folder: 'str | os.PathLike',
        max_bytes: int,
        max_file_bytes: int,
        package_folders: tuple[Path, ...] = (),
    ) -> None:
        self.folder = Path(folder).resolve()
        self.max_bytes = max_bytes
        self.max_file_bytes = max_file_bytes
        self.package_folders = tuple(
            Path(path).resolve() for path in package_folders
        )
        self._files: dict[Path, _Upload] = {}
        self._reserved: dict[str, int] = {}  # bytes per client
        self._lock = threading.Lock()

    def check(self, path: object) -> Path:
        """Check that a path is that of an uploaded file.

        Args:
            path: The path that a client sent.

        Returns:
            The resolved path.

        Raises:
            UploadError: It is not a string, outside of the folders, not a
                regular file, or too large.
        """
        refusal = UploadError(
            'a file of the question is not an uploaded file; upload it again.'
        )
        if not isinstance(path, str) or len(path) > 4096:
            raise refusal
        try:
            resolved = Path(path).resolve()
            if not any(
                resolved.is_relative_to(folder)
                for folder in (self.folder, *self.package_folders)
            ):
                raise refusal
            with open_regular(resolved) as file:
                size = os.fstat(file.fileno()).st_size
        except UploadError:
            raise
        except (OSError, RuntimeError, ValueError) as error:
            raise refusal from error
        if size > self.max_file_bytes:
            raise UploadError(
                f'{resolved.name} has {size:,} bytes; at most '
                f'{self.max_file_bytes:,} are allowed: send a smaller image.'
            )
        return resolved

    @contextlib.contextmanager
    def reserve(self, client: str, size: int) -> Iterator[None]:
        """Reserve space for an upload while it is received.

        Args:
            client: IP address of the client.
            size: Bytes of the upload, or the most that it may have.

        Raises:
            UploadError: There is not enough space.
        """
        self.remove_unused()
        with self._lock:
            own = sum(
                f.size for f in self._files.values() if f.client == client
            )
            own += self._reserved.get(client, 0)
            total = sum(f.size for f in self._files.values())
            total += sum(self._reserved.values())
            if (
                total + size > self.max_bytes
                or own + size > self.max_bytes * _CLIENT_SHARE
                or len(self._files) >= MAX_FILES
            ):
                raise UploadError(
                    'too many uploaded images wait for their questions; ask '
                    'about them, or try again later.'
                )
            self._reserved[client] = self._reserved.get(client, 0) + size
        try:
            yield
        finally:
            with self._lock:
                self._reserved[client] -= size
                if not self._reserved[client]:
                    del self._reserved[client]

    def add(self, client: str, paths: list[str]) -> None:
        """Count files that were received.

        Args:
            client: IP address of the client.
            paths: Paths of the files.
        """
        now = time.time()
        for path in paths:
            resolved = Path(path).resolve()
            with contextlib.suppress(FileNotFoundError):
                upload = _Upload(client, resolved.stat().st_size, now)
                with self._lock:
                    self._files[resolved] = upload

    def remove(self, path: 'str | os.PathLike') -> None:
        """Delete an uploaded file; files of the package remain.

        Args:
            path: The file.
        """
        resolved = Path(path).resolve()
        if not resolved.is_relative_to(self.folder):
            return
        with self._lock:
            self._files.pop(resolved, None)
        with contextlib.suppress(FileNotFoundError):
            resolved.unlink()

    def remove_unused(self) -> None:
        """Delete old files, and files that were received only in part."""
        oldest = time.time() - UNUSED_SECONDS
        with self._lock:
            old = [p for p, each in self._files.items() if each.time < oldest]
        for path in self.folder.glob('*'):  # Gradio writes a file here first
            with contextlib.suppress(FileNotFoundError):
                if path.is_file() and path.stat().st_mtime < oldest:
                    old.append(path)
        for path in old:
            self.remove(path)


@cache
def upload_folder() -> str:
    """A private folder for the uploads of this process.

    It is deleted when the process ends. The environment variable
    ``GRADIO_TEMP_DIR`` names another folder, which is not deleted.
    """
    folder = os.environ.get('GRADIO_TEMP_DIR')
    if not folder:
        folder = tempfile.mkdtemp(prefix='minigpt4-page-')
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.environ['GRADIO_TEMP_DIR'] = folder
    return folder
