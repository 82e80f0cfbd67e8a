# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Several data sets as one: their records, counts and images."""

import json

import pytest
from mmengine.config import ConfigDict
from PIL import Image

from minigpt4.datasets import MixedDataset
from minigpt4.datasets.mixed import part_configs

PIPELINE = [
    dict(type='minigpt4.LoadImages', size=14),
    dict(type='minigpt4.DrawQuestion', questions=['A?', 'B?']),
    dict(type='minigpt4.PackSample'),
]


@pytest.fixture
def parts(tmp_path):
    """Two descriptions, one without its image; three questions."""
    (tmp_path / 'image').mkdir()
    Image.new('RGB', (14, 14)).save(tmp_path / 'image/0.png')
    descriptions = [dict(image_id=i, caption=f'd{i}') for i in '01']
    questions = [
        dict(image='0.png', question=f'q{i}?', answer=f'a{i}')
        for i in range(3)
    ]
    for name, records in (('d', descriptions), ('q', questions)):
        (tmp_path / f'{name}.json').write_text(json.dumps(records))
    return [
        dict(
            type='minigpt4.InstructionDataset',
            ann_file=f'{name}.json',
            data_root=str(tmp_path),
            pipeline=PIPELINE,
        )
        for name in 'dq'
    ]


def test_records_of_all_parts(parts):
    data = MixedDataset(parts, [1, 2])
    assert (len(data), data.sizes, data.weights) == (5, [2, 3], [1, 2])
    answers = [data[i].turns[0].answer for i in (0, 2, 3, 4)]
    assert answers == ['d0', 'a0', 'a1', 'a2']
    assert data[3, 7].turns[0].question == 'q1?'
    assert data[1] is None  # its image is missing
    assert data.num_skipped == 1
    assert sum(data.error_counts.values()) == 1
    assert data.num_images == 3
    assert [n for n, _ in data.image_sources()] == ['0', '1', '0.png']
    with pytest.raises(IndexError):
        data[5]


def test_questions_are_drawn_by_the_index_in_the_part(parts):
    data = MixedDataset(parts, [1, 2])
    alone = data.parts[0]
    found = [data[0, i].turns[0].question for i in range(8)]
    assert found == [alone[0, i].turns[0].question for i in range(8)]
    assert set(found) == {'A?', 'B?'}


@pytest.mark.parametrize('weights', [[1], [1, 0], [1, 0.5], [True, 1]])
def test_invalid_weights(parts, weights):
    with pytest.raises(ValueError, match='weights'):
        MixedDataset(parts, weights)


def test_configs_of_the_parts(parts):
    config = ConfigDict(type='MixedDataset', datasets=parts, weights=[1, 1])
    assert part_configs(config) == parts
    assert part_configs(parts[0]) == [parts[0]]
