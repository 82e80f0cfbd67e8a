# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The files of a ledger's images, which must be those that were added.

A text is stored under the digest of a file. If the file was replaced, the
text would describe another image than the one that the digest names.
"""

import hashlib

from ..images.read import SampleError, read_file
from ..utils.errors import printable
from .ledger import LedgerImage


class ChangedFileError(SampleError):
    """A file has not the digest that it had when it was added."""


def check_added(data: bytes, image: LedgerImage) -> None:
    """Refuse the bytes of a file that is not the one that was added.

    Args:
        data: The bytes of the file.
        image: The image.

    Raises:
        ChangedFileError: They have another digest.
    """
    if hashlib.sha256(data).hexdigest() != image.digest:
        raise ChangedFileError(
            f'{printable(image.path)} is not the file that was added to the '
            'ledger: it has changed since; add it again, or restore it.'
        )


def read_added(image: LedgerImage) -> bytes:
    """Read the file of an image, as it was when it was added.

    Raises:
        SampleError: The file is missing or cannot be read.
        ChangedFileError: It has another content.
    """
    data = read_file(image.path)
    check_added(data, image)
    return data
