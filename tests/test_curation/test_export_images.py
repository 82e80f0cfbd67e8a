# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Images of an export are those of the ledger, as JPEG."""

import hashlib

import pytest
from PIL import Image

from minigpt4.curation.export_images import (
    ImageProblem,
    place_image,
    read_exported,
)
from minigpt4.curation.ledger import LedgerImage


def added(path):
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return LedgerImage(1, digest, str(path), {})


def test_jpeg_keeps_its_bytes(tmp_path):
    path = tmp_path / 'a.png'  # the content decides
    Image.new('RGB', (8, 6), 'red').save(path, 'JPEG')
    found = read_exported(added(path))
    assert found.data == path.read_bytes() and not found.converted


@pytest.mark.parametrize('mode', ['RGBA', 'P', 'L', 'I;16', 'CMYK'])
@pytest.mark.parametrize('kind', ['PNG', 'TIFF'])
def test_other_formats_are_converted(tmp_path, kind, mode):
    path = tmp_path / 'image'
    if (kind, mode) == ('PNG', 'CMYK'):
        return
    Image.new(mode, (8, 6)).save(path, kind)
    image = added(path)
    found = read_exported(image)
    assert found.converted
    place_image(image, found, tmp_path / 'out.jpg', 'symlink')
    with Image.open(tmp_path / 'out.jpg') as opened:
        assert (opened.format, opened.mode) == ('JPEG', 'RGB')
        assert opened.size == (8, 6)


def test_a_problem_names_the_file(tmp_path):
    path = tmp_path / 'a.png'
    path.write_bytes(b'\x89PNG\r\n\x1a\n rest')
    image = added(path)
    with pytest.raises(ImageProblem, match='a.png') as error:
        read_exported(image)
    assert error.value.kind == 'unreadable'
    path.write_bytes(b'other')
    with pytest.raises(ImageProblem, match='a.png is not the') as error:
        read_exported(image)
    assert error.value.kind == 'changed'
    path.unlink()
    with pytest.raises(ImageProblem, match='a.png does not') as error:
        read_exported(image)
    assert error.value.kind == 'missing'


def test_a_link_that_cannot_be_made_names_the_image(tmp_path):
    path = tmp_path / 'a.jpg'
    Image.new('RGB', (8, 6)).save(path)
    image = added(path)
    with pytest.raises(OSError, match='a.jpg cannot be linked.*copies'):
        place_image(image, read_exported(image), path, 'hardlink')
