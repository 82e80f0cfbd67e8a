# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The files of a ledger's images, which must be those that were added.

A text is stored under the digest of a file. If the file was replaced, the
text would describe another image than the one that the digest names.
"""

import hashlib

from ..images.read import SampleError, read_file
from ..utils.errors import printable
from ..utils.sample_errors import IMAGE, NO_IMAGE
from .ledger import LedgerImage

# why the file of an image cannot be used
MISSING, CHANGED, UNREADABLE = 'missing', 'changed', 'unreadable'
PROBLEMS = {
    MISSING: 'the file is missing',
    CHANGED: 'the file has changed since it was added',
    UNREADABLE: 'the file cannot be read',
}


class ImageProblem(SampleError):
    """An image whose file cannot be used.

    Args:
        kind: A key of :data:`PROBLEMS`.
        message: The reason, one sentence.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message, NO_IMAGE if kind == MISSING else IMAGE)
        self.kind = kind

    def __reduce__(self) -> tuple:
        return type(self), (self.kind, str(self))


def check_added(data: bytes, image: LedgerImage) -> None:
    """Refuse the bytes of a file that is not the one that was added.

    Args:
        data: The bytes of the file.
        image: The image.

    Raises:
        ImageProblem: They have another digest.
    """
    if hashlib.sha256(data).hexdigest() != image.digest:
        raise ImageProblem(
            CHANGED,
            f'{printable(image.path)} is not the file that was added to the '
            'ledger: it has changed since; add it again, or restore it.',
        )


def read_added(image: LedgerImage) -> bytes:
    """Read the file of an image, as it was when it was added.

    Raises:
        ImageProblem: The file is missing, cannot be read, or has changed.
    """
    try:
        data = read_file(image.path)
    except SampleError as error:
        if error.reason == NO_IMAGE:
            raise ImageProblem(
                MISSING,
                f'{printable(image.path)} does not exist; restore it, or add '
                'the image again from its new place.',
            ) from error
        raise ImageProblem(UNREADABLE, str(error)) from error
    check_added(data, image)
    return data
