# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The dataset of preference pairs."""

import json

import pytest
import torch
from PIL import Image

from minigpt4.datasets import (
    DrawQuestion,
    LoadImages,
    PackSample,
    PreferenceDataset,
)

PIPELINE = [
    dict(type=LoadImages, size=28),
    dict(type=DrawQuestion, questions=['Describe it.']),
    dict(type=PackSample, keys=('rejected',)),
]


@pytest.fixture
def folder(tmp_path):
    """Folder of three pairs, as an export has them."""
    (tmp_path / 'image').mkdir()
    lines = []
    for i, colour in enumerate(('red', 'green', 'blue')):
        Image.new('RGB', (32, 32), colour).save(tmp_path / f'image/{i}.jpg')
        record = dict(
            images=[f'image/{i}.jpg'],
            chosen=f'It is {colour}.',
            rejected='It is black.',
        )
        lines.append(json.dumps(record))
    (tmp_path / 'preference.jsonl').write_text('\n'.join(lines) + '\n')
    return tmp_path


def test_samples(folder):
    dataset = PreferenceDataset(data_root=str(folder), pipeline=PIPELINE)
    assert len(dataset) == 3 and dataset.num_images == 3
    sample = dataset[1, 7]
    (turn,) = sample.turns
    assert (turn.question, turn.answer) == ('Describe it.', 'It is green.')
    assert sample.rejected == 'It is black.'
    assert sample.images[0].shape == (3, 28, 28)
    assert sample.images[0].dtype == torch.uint8
    assert [name for name, _ in dataset.image_sources(1)] == [
        'image/1.jpg',
        'image/2.jpg',
    ]


def test_invalid_records_are_skipped_counted_and_logged(folder, log):
    path = folder / 'preference.jsonl'
    lines = path.read_text().splitlines()
    lines[1] = '{"images": ["image/1.jpg"], "chosen": "A", "rejected": "A"}'
    path.write_text('\n'.join([*lines, '{"images": ']))
    dataset = PreferenceDataset(data_root=str(folder), pipeline=PIPELINE)
    assert len(dataset) == 4 and dataset[1] is None and dataset[0] is not None
    assert dataset.num_skipped == 1
    assert 'record 1 of preference.jsonl: has the same text' in log[0]
    assert f'2 of 4 records of {path} are skipped.' in log[-1]


def test_one_pair_is_a_file_too(folder):
    path = folder / 'preference.jsonl'
    path.write_text(path.read_text().splitlines()[0])
    assert len(PreferenceDataset(data_root=str(folder))) == 1


@pytest.mark.parametrize(
    ('text', 'reason'),
    [
        (
            '{"annotations": [{"image_id": "1", "caption": "A cat."}]}',
            '1 of 1 records of .* cannot be used: .* no chosen; expected',
        ),
        ('', 'no JSON file .it is empty'),
        ('<html>', 'HTML'),
        ('[]', 'has no records'),
    ],
)
def test_other_files_are_refused(folder, text, reason):
    (folder / 'preference.jsonl').write_text(text)
    with pytest.raises(ValueError, match=reason):
        PreferenceDataset(data_root=str(folder))


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match='preference.jsonl does not e'):
        PreferenceDataset(data_root=str(tmp_path))


def test_too_many_invalid_records(folder):
    path = folder / 'preference.jsonl'
    path.write_text(path.read_text() + '{}\n')
    with pytest.raises(ValueError, match='1 of 4 records'):
        PreferenceDataset(data_root=str(folder), max_bad=0.2)
