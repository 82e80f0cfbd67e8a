# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Near duplicates by perceptual hash."""

import random
import time

import pytest
from PIL import Image, ImageFilter

from minigpt4.data_tools import near_duplicates
from minigpt4.data_tools.near_duplicates import (
    find_duplicates,
    hash_images,
    near_pairs,
)
from minigpt4.utils.sample_errors import SampleError


def flip(value, bits, rng):
    for bit in rng.sample(range(64), bits):
        value ^= 1 << bit
    return value


@pytest.mark.parametrize('distance', [0, 1, 4, 15])
@pytest.mark.parametrize('pairs_per_step', [50, 1 << 22])
def test_all_near_pairs_are_found(distance, pairs_per_step, monkeypatch):
    monkeypatch.setattr(near_duplicates, '_PAIRS_PER_STEP', pairs_per_step)
    rng = random.Random(distance)
    hashes = [rng.getrandbits(64) for _ in range(100)]
    hashes += [flip(h, rng.randint(1, 18), rng) for h in hashes]
    hashes = list(dict.fromkeys(hashes))
    expected = {
        (a, b)
        for b in range(len(hashes))
        for a in range(b)
        if (hashes[a] ^ hashes[b]).bit_count() <= distance
    }
    found = {
        tuple(pair)
        for pairs in near_pairs(hashes, distance)
        for pair in pairs.tolist()
    }
    assert found == expected
    assert len(expected) >= (3 if distance else 0)


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


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'imagehash', None)
    with pytest.raises(ImportError, match=r"pip install 'minigpt4\[curate\]'"):
        list(hash_images([]))
