# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Reviewers see only the images that were added."""

import hashlib
import io

import pytest
from PIL import Image

from minigpt4.curation.added_files import ImageProblem
from minigpt4.curation.ledger import LedgerImage
from minigpt4.curation.review_images import not_displayed, reduced_image


def added(path):
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return LedgerImage(1, digest, str(path), {})


def test_the_image_is_reduced(tmp_path):
    path = tmp_path / 'a.png'
    Image.new('RGB', (80, 60), 'red').save(path)
    data = reduced_image(added(path), 40)
    with Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.size) == ('JPEG', (40, 30))


@pytest.mark.parametrize(
    'change, reason',
    [
        (lambda path: path.unlink(), 'the file is missing.'),
        (
            lambda path: Image.new('RGB', (80, 60)).save(path),
            'the file has changed since it was added.',
        ),
        (None, 'the file cannot be read.'),
    ],
)
def test_another_file_is_not_displayed(tmp_path, change, reason):
    path = tmp_path / 'a.png'
    path.write_bytes(b'\x89PNG\r\n\x1a\n rest')
    image = added(path)
    if change:
        change(path)
    with pytest.raises(ImageProblem, match='a.png') as error:
        reduced_image(image, 40)
    assert not_displayed(error.value) == (
        f'This image cannot be displayed: {reason}'
    )
