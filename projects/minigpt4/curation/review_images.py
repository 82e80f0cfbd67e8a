# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Images as reviewers see them: only the files that were added.

A file that has changed may show something else than what was described, so
it is not displayed; the reviewer reads why.
"""

from ..images.read import SampleError
from ..images.thumbnail import thumbnail_of_bytes
from .added_files import PROBLEMS, UNREADABLE, ImageProblem, read_added
from .ledger import LedgerImage


def reduced_image(image: LedgerImage, side: int, quality: int = 85) -> bytes:
    """Encode a small copy of an image as JPEG.

    Args:
        image: The image.
        side: The longer side of the copy, in pixels.
        quality: JPEG quality, 1 to 95.

    Raises:
        ImageProblem: The file is missing, cannot be read, or is not the one
            that was added.
    """
    data = read_added(image)
    try:
        return thumbnail_of_bytes(data, image.path, side, quality)
    except SampleError as error:
        raise ImageProblem(UNREADABLE, str(error)) from error


def not_displayed(problem: ImageProblem) -> str:
    """A sentence for the reviewer about an image that is not displayed."""
    return f'This image cannot be displayed: {PROBLEMS[problem.kind]}.'
