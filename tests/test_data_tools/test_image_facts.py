# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
import hashlib
import sys

import pytest
from tests.data_sets import jpeg, noise

from minigpt4.data_tools.data_items import ImageRef
from minigpt4.data_tools.image_facts import (
    measure_image,
    require_imagehash,
    thumbnail_url,
)


def test_a_good_image():
    data = jpeg(noise(1, 60, 40))
    facts = measure_image(ImageRef('a', data=data), perceptual=False)
    assert facts.digest == hashlib.sha256(data).digest()
    assert (facts.width, facts.height, facts.num_bytes) == (60, 40, len(data))
    assert facts.error is None and facts.hash is None


def test_a_similar_image_has_a_near_hash():
    pytest.importorskip('imagehash')
    pytest.importorskip('scipy')

    def hash_of(image):
        return measure_image(ImageRef('a', data=jpeg(image))).hash

    one = hash_of(noise(1, 300, 200))
    similar = hash_of(noise(1, 200, 140))
    assert (one ^ similar).bit_count() <= 4
    assert (one ^ hash_of(noise(2, 300, 200))).bit_count() > 10


def test_errors_name_the_image(tmp_path):
    damaged = measure_image(ImageRef('a', data=jpeg(noise(1))[:500]))
    assert 'a cannot be read as an image: it is truncated' in damaged.error
    assert damaged.digest
    gone = measure_image(ImageRef('b', str(tmp_path / 'b.jpg')))
    assert gone.error.endswith('does not exist; give the path of an image.')
    assert gone.digest == b''


def test_thumbnails():
    data = jpeg(noise(1))
    url = thumbnail_url(ImageRef('a', data=data), 16)
    assert url.startswith('data:image/jpeg;base64,')
    assert thumbnail_url(ImageRef('a', data=b'no image'), 16) == ''


def test_without_imagehash_the_error_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, 'imagehash', None)
    with pytest.raises(ImportError, match=r'minigpt4\[curate\].*--near 0'):
        require_imagehash()
