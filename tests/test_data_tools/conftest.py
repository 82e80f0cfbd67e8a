# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Small data sets for the tests of the data tools."""

import json

import pytest
from tests.data_sets import jpeg, noise


@pytest.fixture
def records(tmp_path):
    """A folder of records with four images, one of them damaged."""
    root = tmp_path / 'set'
    (root / 'image').mkdir(parents=True)
    for i in (1, 2, 3):
        (root / 'image' / f'{i}.jpg').write_bytes(jpeg(noise(i)))
    damaged = jpeg(noise(4))[:500]
    (root / 'image' / '4.jpg').write_bytes(damaged)
    captions = {1: 'a red dog', 2: 'a blue cat', 3: 'a tree', 4: 'a house'}
    content = [dict(image_id=i, caption=c) for i, c in captions.items()]
    (root / 'filter_cap.json').write_text(
        json.dumps(dict(annotations=content))
    )
    return root
