# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Images into the ledger: digests, order, samples, unreadable files."""

import hashlib
import shutil

import pytest

from minigpt4.captioning.image_sources import find_images
from minigpt4.curation.add_images import (
    ImageNotes,
    add_images,
    sample_images,
)
from minigpt4.curation.ledger import Ledger


@pytest.fixture
def entries(images, tmp_path):
    folder = tmp_path / 'folder'
    shutil.copytree(images, folder)
    shutil.copy(folder / '00.png', folder / '05b.png')
    (folder / '06b.png').write_bytes(b'no image')
    return find_images([str(folder)])


def test_readable_images_are_added_in_their_order(ledger, entries, tmp_path):
    counted = []
    notes = ImageNotes(
        'a walk', 'CC0', {'00': ['A star.']}, {'0': ['cat'], '3': []}
    )
    added = add_images(ledger, entries, notes, 3, counted.append)
    assert (added.new, added.known, added.copies) == (12, 0, 1)
    ((path, reason),) = added.unreadable
    assert path.endswith('06b.png') and 'cannot be read as an image' in reason
    assert sum(counted) == 14
    found = ledger.images()
    assert [i.path for i in found] == [
        str(tmp_path / 'folder' / f'{i:02}.png') for i in range(12)
    ]
    with open(found[3].path, 'rb') as file:
        assert found[3].digest == hashlib.sha256(file.read()).hexdigest()
    details = found[0].details
    assert details['source'] == 'a walk' and details['licence'] == 'CC0'
    assert details['captions'] == ['A star.'] and details['objects'] == ['cat']
    assert found[3].details['objects'] == []
    assert 'captions' not in found[3].details
    assert len(details['phash']) == 16 and details['width'] > 0


def test_the_same_images_again(ledger, entries):
    add_images(ledger, entries[:5])
    added = add_images(ledger, entries, ImageNotes('web'))
    assert (added.new, added.known) == (7, 5)
    assert all(i.details['source'] == 'web' for i in ledger.images())


def test_numbers_do_not_depend_on_an_interruption(entries, tmp_path):
    def digests(name, interrupted):
        with Ledger(tmp_path / name) as ledger:
            if interrupted:
                add_images(ledger, entries[:5])
            add_images(ledger, entries, workers=1 + 3 * interrupted)
            return [(i.id, i.digest) for i in ledger.images()]

    assert digests('a.sqlite', False) == digests('b.sqlite', True)


def test_samples(entries):
    chosen = sample_images(entries, 5, seed=1)
    assert len(chosen) == 5 and chosen == sample_images(entries, 5, seed=1)
    assert chosen != sample_images(entries, 5, seed=2)
    assert chosen == sorted(chosen, key=entries.index)
    assert sample_images(entries, None, 0) == entries
    assert sample_images(entries, 99, 0) == entries
