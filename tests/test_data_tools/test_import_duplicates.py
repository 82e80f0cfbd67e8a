# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Which of the images that are near duplicates are kept."""

import random
import time

import pytest
from PIL import Image, ImageFilter

from minigpt4.data_tools.import_duplicates import find_duplicates, hash_images
from minigpt4.utils.sample_errors import SampleError


def test_the_first_of_near_images_is_kept():
    base = 0x0123456789ABCDEF
    hashes = [base, None, base ^ 1, base ^ 7, base, ~base & (1 << 64) - 1]
    assert find_duplicates(hashes, 0) == {4: 0}
    assert find_duplicates(hashes, 1) == {2: 0, 4: 0}
    # 3 differs from 0 in three bits, from 2 (which is dropped) in two
    assert find_duplicates(hashes, 2) == {2: 0, 4: 0}
    assert find_duplicates(hashes, 3) == {2: 0, 3: 0, 4: 0}


def test_a_copy_of_a_dropped_image_names_the_kept_one():
    assert find_duplicates([0, 1, 1], 1) == {1: 0, 2: 0}


def test_many_hashes_take_less_than_all_pairs():
    rng = random.Random(0)
    hashes = [rng.getrandbits(64) for _ in range(50_000)]
    start = time.process_time()
    assert find_duplicates([*hashes, hashes[7] ^ 5], 4) == {50_000: 7}
    # 1.25e9 pairs would take minutes in NumPy
    assert time.process_time() - start < 20


def test_images_are_hashed(tmp_path):
    pytest.importorskip('imagehash')
    image = Image.effect_noise((64, 64), 80).resize((200, 150)).convert('RGB')
    image = image.filter(ImageFilter.GaussianBlur(3))
    image.save(tmp_path / 'a.png')
    image.resize((120, 90)).save(tmp_path / 'b.jpg', quality=50)
    Image.effect_noise((64, 64), 80).save(tmp_path / 'c.png')
    (tmp_path / 'd.png').write_bytes(b'no image')
    names = [str(tmp_path / name) for name in ('a.png', 'b.jpg', 'c.png')]
    data = (tmp_path / 'a.png').read_bytes()
    a, b, c, same, bad = hash_images([*names, data, str(tmp_path / 'd.png')])
    assert a == same and isinstance(bad, SampleError)
    assert (a ^ b).bit_count() <= 4 < (a ^ c).bit_count()
