# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Near duplicates are found by number, whatever the order of addition."""

import random

import pytest
from PIL import Image

from minigpt4.curation.near_duplicates import ImageIndex, TextIndex, image_hash

WORDS = (
    'a the red blue dog cat runs on under grass tree house with big'.split()
)


def text(seed, length=60):
    rng = random.Random(seed)
    return ' '.join(rng.choices(WORDS, k=length))


def test_texts():
    base = text(1)
    near = base.replace(' ', '  ').upper() + ' indeed'
    entries = {3: base, 5: text(2), 7: near, 9: ''}
    for order in ([3, 5, 7, 9], [9, 7, 5, 3]):
        index = TextIndex(0.8)
        for number in order:
            index.add(number, entries[number])
        number, similarity = index.find(near, lambda n: n < 7)
        assert number == 3 and 0.9 < similarity < 1
        assert index.find(base, lambda n: n < 3) is None
        assert index.find(text(2), lambda n: n != 5) is None
        assert index.find('', lambda n: True) is None
        # of several the lowest
        assert index.find(base, lambda n: True) == (3, 1.0)


@pytest.mark.parametrize('distance', [0, 4, 15])
def test_hashes(distance):
    rng = random.Random(distance)
    value = rng.getrandbits(64)
    for _ in range(50):
        bits = rng.sample(range(64), distance + 1)
        near, far = value, value
        for bit in bits[:-1]:
            near ^= 1 << bit
        for bit in bits:
            far ^= 1 << bit
        index = ImageIndex(distance)
        index.add(2, far)
        assert index.find(value, lambda n: True) is None
        index.add(4, near)
        assert index.find(value, lambda n: True) == (4, distance)
        assert index.find(value, lambda n: n < 4) is None


def test_a_changed_image_has_a_close_hash():
    rng = random.Random(0)
    small = Image.new('RGB', (8, 8))
    small.putdata([tuple(rng.choices(range(256), k=3)) for _ in range(64)])
    image = small.resize((256, 256), Image.Resampling.BICUBIC)
    other = small.rotate(90).resize((256, 256), Image.Resampling.BICUBIC)
    value = image_hash(image)
    assert 0 <= value < 2**64
    near = image_hash(image.resize((100, 100)))
    assert (value ^ near).bit_count() <= 4
    assert (value ^ image_hash(other)).bit_count() > 15
