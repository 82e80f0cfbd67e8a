# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Images of a folder that are captioned and scored by tools/test.py."""

import json

import pytest

from minigpt4.evaluation.caption_dataset import CaptionDataset


def test_images_of_the_truth_are_captioned(nano_set):
    truth = nano_set / 'truth.json'
    truth.write_text(json.dumps({'001': ['dog'], '003': [], '99': ['cat']}))
    data = CaptionDataset(
        'chair',
        str(truth),
        str(nano_set / 'images'),
        prompt='What is it?',
        pipeline=[dict],
    )
    assert [sample['image_id'] for sample in data] == ['001', '003']
    assert data[1]['images'] == [str(nano_set / 'images' / '003.png')]
    assert data[1]['turns'][0].question == 'What is it?'


def test_files_are_found_by_the_numbers_of_the_truth(nano_set):
    """As by ``minigpt4 eval``: 000.png and 0 are one image."""
    truth = nano_set / 'truth.json'
    truth.write_text(json.dumps({'0': ['dog'], 'val/001.png': []}))
    data = CaptionDataset(
        'chair', str(truth), str(nano_set / 'images'), pipeline=[dict]
    )
    assert [sample['image_id'] for sample in data] == ['0', 'val/001.png']


def test_images_of_the_references_are_captioned(nano_set):
    data = CaptionDataset(
        'captions',
        str(nano_set / 'captions.json'),
        str(nano_set / 'images'),
        limit=2,
        pipeline=[dict],
    )
    assert len(data) == 2
    assert [data[i]['image_id'] for i in range(2)] == ['0', '1']
    assert data[0]['turns'][0].question == ''


def test_a_folder_without_a_described_image_is_refused(nano_set):
    truth = nano_set / 'truth.json'
    truth.write_text('{"99": ["cat"]}')
    with pytest.raises(ValueError, match='has none of the 18 images'):
        CaptionDataset('chair', str(truth), str(nano_set / 'images'))
    with pytest.raises(FileNotFoundError, match='does not exist'):
        CaptionDataset('chair', str(truth), str(nano_set / 'none'))
