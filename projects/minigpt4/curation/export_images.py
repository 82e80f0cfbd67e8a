# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The images of an export: checked, copied or linked, or converted.

A file is exported only if it has the digest that the ledger has, so that
each text belongs to the image that was described. JPEG files keep their
bytes. Files of other formats are converted to JPEG, as stage 2 and the other
readers of the layouts expect it.
"""

import io
import os
from pathlib import Path
from typing import Literal, NamedTuple

from PIL import Image

from ..images.read import SampleError, read_image
from .added_files import UNREADABLE, ImageProblem, read_added
from .ledger import LedgerImage

Placement = Literal['copy', 'hardlink', 'symlink']
JPEG_QUALITY = 95


class ExportedImage(NamedTuple):
    """The content of an image file.

    Attributes:
        data: The bytes of a JPEG file.
        converted: Whether the ledger's file has another format.
    """

    data: bytes
    converted: bool


def read_exported(image: LedgerImage) -> ExportedImage:
    """Read and check an image; convert it to JPEG where necessary.

    Raises:
        ImageProblem: The file is missing, cannot be read, or is not the one
            that was added.
    """
    data = read_added(image)
    if data.startswith(b'\xff\xd8\xff'):
        return ExportedImage(data, False)
    try:
        pixels = read_image(data, image.path)
    except SampleError as error:
        raise ImageProblem(UNREADABLE, str(error)) from error
    return ExportedImage(_jpeg(pixels), True)


def place_image(
    image: LedgerImage,
    content: ExportedImage,
    path: Path,
    placement: Placement,
) -> None:
    """Create the file of an image in an export.

    Args:
        image: The image.
        content: Its content.
        path: The new file.
        placement: Whether a JPEG file is copied or linked; a converted image
            is always a new file.

    Raises:
        OSError: The file cannot be written, or not be linked.
    """
    if placement == 'copy' or content.converted:
        write_file(path, content.data)
        return
    try:
        if placement == 'symlink':
            path.symlink_to(image.path)
        else:
            os.link(os.path.realpath(image.path), path)
    except OSError as error:
        raise OSError(
            error.errno,
            f'{image.path} cannot be linked ({error.strerror or error}); '
            'export with copies of the images instead',
        ) from error


def write_file(path: Path, data: bytes) -> None:
    """Write a file and wait until it is on disk."""
    with open(path, 'wb') as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, 'JPEG', quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()
