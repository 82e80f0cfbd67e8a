# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Captions of one image as one record, of which each pass uses another."""

import itertools
import json

import pytest
from PIL import Image

from minigpt4.datasets import EndlessSampler, InstructionDataset
from minigpt4.datasets.caption_groups import drawn_caption


@pytest.fixture
def make(tmp_path):
    """Function of settings to a dataset of 3 images with 3, 2, 1 captions."""
    images, annotations = [], []
    for i, number in enumerate((3, 2, 1)):
        name = f'{i:012d}.jpg'
        Image.new('RGB', (8, 8)).save(tmp_path / name)
        images.append(dict(id=i, file_name=name))
        annotations += [
            dict(id=10 * i + j, image_id=i, caption=f'caption {j} of {i}')
            for j in range(number)
        ]
    annotations.append(dict(id=99, image_id=77, caption='without image'))
    (tmp_path / 'captions.json').write_text(
        json.dumps(dict(images=images, annotations=annotations))
    )

    def make(**settings):
        return InstructionDataset(
            'captions.json',
            data_root=str(tmp_path),
            image_folder='',
            draw_caption=True,
            **settings,
        )

    return make


def drawn(dataset, number, start=0):
    """Image and caption of the samples of a run."""
    sampler = EndlessSampler(dataset, seed=0)
    sampler.start = start
    samples = [dataset[key] for key in itertools.islice(sampler, number)]
    return [
        sample and (sample['id'], sample['turns'][0].answer)
        for sample in samples
    ]


def test_an_image_is_one_record(make):
    dataset = make()
    assert len(dataset) == 4  # the last one is invalid
    assert dataset.num_images == 3
    sample = dataset[0]
    assert sample['id'] == '000000000000.jpg'
    assert sample['images'][0].endswith('000000000000.jpg')
    assert sample['turns'][0].question == ''
    assert 'captions' not in sample


def test_each_pass_uses_another_caption(make):
    samples = [s for s in drawn(make(), 4 * 6) if s]
    for i, number in enumerate((3, 2, 1)):
        name = f'{i:012d}.jpg'
        captions = [caption for image, caption in samples if image == name]
        assert len(captions) == 6
        for start in range(0, 6, number):
            group = captions[start : start + number]
            assert sorted(group) == [
                f'caption {j} of {i}' for j in range(number)
            ]


def test_a_resumed_run_draws_the_same_captions(make):
    complete = drawn(make(), 30)
    assert drawn(make(), 17, start=13) == complete[13:]
    assert drawn(make(), 30) == complete
    assert drawn(make(seed=1), 30) != complete


def test_the_order_of_captions_changes_from_group_to_group():
    orders = {
        tuple(drawn_caption(5 * i + j, 5, 'key') for j in range(5))
        for i in range(20)
    }
    assert len(orders) > 10
    assert all(sorted(order) == [0, 1, 2, 3, 4] for order in orders)


def test_without_it_each_caption_is_a_record(make, tmp_path):
    dataset = InstructionDataset(
        'captions.json', data_root=str(tmp_path), image_folder=''
    )
    assert len(dataset) == 7
    assert dataset[1]['turns'][0].answer == 'caption 1 of 0'


def test_conversations_are_not_joined(tmp_path):
    records = [
        dict(image='a.jpg', question='what?', answer='a'),
        dict(image='a.jpg', question='where?', answer='b'),
        dict(image='a.jpg', caption='c'),
        dict(image='a.jpg', caption='d'),
    ]
    (tmp_path / 'data.json').write_text(json.dumps(records))
    dataset = InstructionDataset(
        'data.json', data_root=str(tmp_path), draw_caption=True
    )
    assert len(dataset) == 3
    assert [r['turns'][0].question for r in dataset.records][:2] == [
        'what?',
        'where?',
    ]


def test_limit_counts_images(make):
    assert [record['id'] for record in make(limit=2).records] == [
        '000000000000.jpg',
        '000000000001.jpg',
    ]


def test_captions_of_an_evaluation_are_joined(make):
    """The caption is the sample's answer, and not in its turns."""
    dataset = make(keep_answers=False, limit=2)
    assert len(dataset) == 2
    answers = {dataset[0, 2 * i]['answer'] for i in range(3)}
    assert answers == {f'caption {j} of 0' for j in range(3)}
    (turn,) = dataset[0]['turns']
    assert turn.question == '' and turn.answer is None
