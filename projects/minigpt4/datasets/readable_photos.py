# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Find photographs whose images cannot be read before they are divided."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..images.read import read_image
from ..utils.progress import progress_bar
from ..utils.sample_errors import SampleError
from .photo_folder import Photo, PhotoFolder

_THREADS = 4


def keep_readable(photos: PhotoFolder) -> PhotoFolder:
    """Decode each image and skip those that cannot be read.

    Args:
        photos: The photographs; what is skipped is added to its ``skipped``.

    Returns:
        The readable ones. If none to train with remain, the held-out ones
        become those.
    """
    files = [photo.file for photo in (*photos.train, *photos.test)]
    unreadable = set()
    with progress_bar() as bar, ThreadPoolExecutor(_THREADS) as pool:
        errors = bar.track(
            pool.map(_find_error, files),
            total=len(files),
            description='reading images',
        )
        for file, error in zip(files, errors):
            if error is not None:
                photos.skipped.add('image', 'not readable', f'{file}: {error}')
                unreadable.add(file)

    def readable(some: list[Photo]) -> list[Photo]:
        return [photo for photo in some if photo.file not in unreadable]

    train, test = readable(photos.train), readable(photos.test)
    if not train:
        train, test = test, []
    return photos._replace(train=train, test=test)


def _find_error(file: Path) -> str | None:
    """Return why an image cannot be read; None if it can."""
    try:
        read_image(file, 'it')
    except SampleError as error:
        # several of them are printed in one line, so without the advice
        reason = str(error).partition('; ')[0].rstrip('.')
        return reason.removeprefix('it cannot be read as an image: ')
    return None
