# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Conversations in all formats, their images, and invalid records."""

import json
import re

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from minigpt4.datasets import InstructionDataset, LoadImages, PackSample
from minigpt4.prompts import Turn

PIPELINE = [dict(type=LoadImages, size=8), dict(type=PackSample)]


@pytest.fixture
def dataset(tmp_path):
    """Function of records and settings to a dataset of a red image 52."""
    (tmp_path / 'image').mkdir()
    Image.new('RGB', (6, 6), (255, 0, 0)).save(tmp_path / 'image/52.png')

    def make(data, **settings):
        text = data if isinstance(data, str) else json.dumps(data)
        (tmp_path / 'data.json').write_text(text, encoding='utf-8')
        settings = dict(data_root=str(tmp_path), pipeline=[]) | settings
        return InstructionDataset('data.json', **settings)

    return make


def turns_of(record):
    return [(turn.question, turn.answer) for turn in record['turns']]


@pytest.mark.parametrize('wrap', [lambda x: dict(annotations=x), lambda x: x])
def test_official_format_is_read(dataset, wrap, tmp_path):
    made = dataset(wrap([dict(image_id='52', caption='A red. Square')]))
    assert len(made) == 1
    record = made[0]
    assert turns_of(record) == [('', 'A red. Square')]  # not cleaned
    assert record['images'] == [str(tmp_path / 'image/52.png')]
    assert record['id'] == '52'


def marked(text, **kwargs):
    return [dict(id='52', conversation=text, **kwargs)]


@pytest.mark.parametrize(
    'ask, answer',
    [
        ('###Ask: ', '###Answer: '),
        ('### Ask: ', ' ### Answer:'),
        ('###Human: ', '###Assistant: '),
        ('###问：', '###答：'),
        ('###问: ', '###答: '),
    ],
)
def test_mmpretrain_format_is_read(dataset, ask, answer):
    made = dataset(
        marked(
            f'{ask}<Img><ImageHere></Img> What is it? {answer}A red: square.'
            f'\n{ask}Why?{answer}So.'
        )
    )
    assert turns_of(made[0]) == [
        ('<ImageHere> What is it?', 'A red: square.'),
        ('Why?', 'So.'),
    ]
    assert [name[-6:] for name in made[0]['images']] == ['52.png']


@pytest.mark.parametrize(
    'text',
    [
        'What is it? A square.',
        '###Ask: What?',
        '###Ask: What? ###Ask: Who?',
        '###Answer: A. ###Ask: What?',
        '',
    ],
)
def test_marks_must_alternate(dataset, text):
    with pytest.raises(ValueError, match='does not alternate'):
        dataset(marked(text))


def llava(*values, speakers=('human', 'gpt'), **record):
    talk = [
        {'from': speakers[i % 2], 'value': value}
        for i, value in enumerate(values)
    ]
    return [dict(conversations=talk, **record)]


def test_llava_format_is_read(dataset):
    made = dataset(
        llava(
            '<image>\nWhat is it?',
            ' A square. ',
            'Which colour?',
            'Red.',
            id='x',
            image='52.png',
        )
    )
    assert turns_of(made[0]) == [
        ('<ImageHere> What is it?', 'A square.'),
        ('Which colour?', 'Red.'),
    ]
    assert made[0]['id'] == 'x' and len(made[0]['images']) == 1


def test_records_with_several_images_and_without_are_read(dataset, tmp_path):
    several = llava('<image>\n<image> same?', 'yes', image=['52', '52.png'])
    none = llava('Hello', 'Hi')
    null = llava('Hello', 'Hi', image=None)
    made = dataset(several + none + null, pipeline=PIPELINE)
    assert len(made[0].images) == 2
    assert torch.equal(*made[0].images)
    assert made[0].turns[0].question == '<ImageHere><ImageHere> same?'
    for number in (1, 2):
        assert made[number].images == []
        assert made[number].turns == [Turn('Hello', 'Hi')]


@pytest.mark.parametrize(
    'record',
    [
        llava('a', 'b', 'c'),
        llava('a', 'b', speakers=('gpt', 'human')),
        llava('a', 'b', 'c', speakers=('human', 'system')),
        [dict(conversations=[])],
    ],
)
def test_llava_speakers_must_alternate(dataset, record):
    with pytest.raises(ValueError, match='alternating "human" and "gpt"'):
        dataset(record)


def test_flat_format_keeps_other_keys(dataset):
    flat = dict(image='52', question='q?', answer='a', task='count', id=4)
    record = dataset([flat])[0]
    assert turns_of(record) == [('q?', 'a')]
    assert (record['task'], record['id']) == ('count', 4)


def test_evaluation_moves_the_last_answer_out_of_the_turns(dataset):
    made = dataset(
        [
            dict(image='52', question='q?', answer='a'),
            dict(image_id='52', caption='c'),
            *marked('###Ask: x ###Answer: y ###Ask: z ###Answer: w'),
        ],
        keep_answers=False,
    )
    assert turns_of(made[0]) == [('q?', None)] and made[0]['answer'] == 'a'
    assert turns_of(made[1]) == [('', None)] and made[1]['answer'] == 'c'
    assert turns_of(made[2]) == [('x', 'y'), ('z', None)]
    assert made[2]['answer'] == 'w'


def test_limit_uses_the_first_records(dataset):
    records = [dict(image_id='52', caption=str(i)) for i in range(5)]
    assert len(dataset(records, limit=2)) == 2


@pytest.mark.parametrize('suffix', ['.jpg', '.JPG', '.jpeg', '.webp', '.bmp'])
def test_image_is_found_by_its_stem(dataset, tmp_path, suffix):
    name = 'v1.2 of 7'
    Image.new('RGB', (6, 6)).save(tmp_path / f'image/{name}{suffix}')
    full = suffix == '.JPG'
    record = dict(image_id=name + suffix * full, caption='c')
    assert dataset([record])[0]['images'] == [
        str(tmp_path / f'image/{name}{suffix}')
    ]


def test_relative_root_is_joined_once(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)
    root = tmp_path.name
    records = [dict(image_id='52', caption='c')]
    made = dataset(records, data_root=root, pipeline=PIPELINE)
    assert made[0].images[0][:, 0, 0].tolist() == [255, 0, 0]
    moved = InstructionDataset(
        str(tmp_path / 'data.json'),
        data_root='elsewhere',
        image_folder=str(tmp_path / 'image'),
        pipeline=PIPELINE,
    )
    assert moved[0].images[0][:, 0, 0].tolist() == [255, 0, 0]


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match='data_root and ann_file'):
        InstructionDataset('no.json', data_root=str(tmp_path))


@pytest.mark.parametrize(
    'data, message',
    [
        ('{not json', 'is no JSON file'),
        ('', 'is no JSON file'),
        ([], 'has no records'),
        ({}, 'has no records'),
        (dict(annotations=[]), 'has no records'),
        (5, 'has no records'),
        ('"text"', 'has no records'),
        ([dict(picture='52', text='c')], r"\['picture', 'text'\]"),
        (['52'], 'record 0 of .* expected an object'),
    ],
)
def test_invalid_files_are_refused(dataset, data, message):
    data = data if isinstance(data, str) else json.dumps(data)
    with pytest.raises(ValueError, match=message) as error:
        dataset(data)
    assert re.search(r'[.;]', str(error.value))
    assert 'data.json' in str(error.value) and '\n' not in str(error.value)


def test_unreadable_images_are_skipped_and_counted(dataset, tmp_path, log):
    (tmp_path / 'image/bad.jpg').write_bytes(b'no image')
    names = ['bad', '52', 'absent']
    made = dataset(
        [dict(image_id=name, caption='c') for name in names],
        pipeline=PIPELINE,
    )
    samples = [made[i] for i in range(3)]
    assert [s is None for s in samples] == [True, False, True]
    assert made.num_skipped == 2
    assert ['bad.jpg' in line for line in log] == [True, False]
    assert log[1].startswith('skipped record absent: ')
    assert 'absent does not exist' in log[1]


def test_sample_index_is_passed_to_the_transforms(dataset):
    made = dataset([dict(image_id='52', caption=str(i)) for i in range(2)])
    assert (made[(1, 77)]['sample_index'], made[1]['sample_index']) == (77, 1)
    assert made[(1, 77)]['turns'] == [Turn('', '1')]


def test_record_without_an_answer_is_skipped_and_counted(tmp_path):
    path = tmp_path / 'a.json'
    records = [
        dict(question='what?', answer=answer) for answer in ('', None, ' ')
    ]
    path.write_text(json.dumps(records + [dict(question='q', answer='a')]))
    dataset = InstructionDataset('a.json', str(tmp_path))
    assert len(dataset) == 4
    assert [dataset[i] is None for i in range(4)] == [True] * 3 + [False]
    assert dataset.num_skipped == 3


@pytest.mark.parametrize('workers', [0, 2])
def test_skipped_samples_are_counted_by_reason(dataset, tmp_path, workers):
    """The counts are those of all data workers."""
    (tmp_path / 'image/bad.jpg').write_bytes(b'no image')
    names = ['bad', '52', 'absent', 'absent']
    records = [dict(image_id=name, caption='c') for name in names]
    made = dataset([*records, *bad(3)], pipeline=PIPELINE)
    loader = DataLoader(
        made, None, num_workers=workers, collate_fn=lambda sample: sample
    )
    assert [s is None for s in loader] == [True, False, *[True] * 5]
    assert made.num_skipped == 6
    assert made.error_counts == {
        'sample: image cannot be read': 1,
        'sample: image is missing': 2,
        'sample: record cannot be used': 3,
    }


def bad(number):
    return [dict(image_id='52', caption=5, id=f'x{i}') for i in range(number)]


GOOD = dict(image_id='52', caption='c')


def test_invalid_records_are_logged_and_others_keep_their_number(dataset, log):
    made = dataset([GOOD, *bad(1), GOOD, 7])
    assert [made[i] is None for i in range(4)] == [False, True, False, True]
    assert made.num_skipped == 2 and made.records[1] is None
    assert log == [
        'skipped record 1 of data.json (id x0): caption is a number; '
        'expected a string.',
        'skipped record 3 of data.json: is a number; expected an object.',
        log[2],
    ]
    assert log[2].startswith('2 of 4 records of ')
    assert len(log) == 3  # nothing more when they are drawn
    assert made.num_images == 1


def test_at_most_twenty_invalid_records_are_logged(dataset, log):
    made = dataset([GOOD, *bad(30)])
    assert len(made) == 31 and len(log) == 21
    assert log[-1].startswith('30 of 31 records')
    assert log[-1].endswith('are skipped, 20 are listed above.')


def test_file_with_too_many_invalid_records_is_refused(dataset):
    dataset([GOOD, *bad(1)], max_bad=0.5)
    with pytest.raises(ValueError, match='2 of 3 records .*record 1 of data'):
        dataset([GOOD, *bad(2)], max_bad=0.5)
    with pytest.raises(ValueError, match='5 of 5 .*record 2.*; and so on'):
        dataset(bad(5))


def test_dropped_first_turns_are_logged(dataset, log):
    made = dataset(llava('hi', 'q', 'a', speakers=('gpt', 'human')))
    assert turns_of(made[0]) == [('q', 'a')]
    assert any('first turn is dropped' in line for line in log)


def test_record_ids_cannot_forge_a_log_line(dataset, log):
    forged = 'x\x1b[31m\n12/12 - INFO - forged'
    dataset([GOOD, dict(image=forged, id=forged, question='q', answer='a')])
    assert all(line.isprintable() for line in log) and len(log) == 2


def test_coco_captions_find_their_images(dataset):
    """YOLO-World #144, LLaVA #13."""
    made = dataset(
        dict(
            images=[dict(id=9, file_name='52.png')],
            annotations=[dict(id=77, image_id=9, caption='c')],
        ),
        pipeline=PIPELINE,
    )
    assert len(made[0].images) == 1 and made[0].id == 77


def test_json_with_a_byte_order_mark_is_read(dataset):
    """MedQA-ChatGLM #2, Annif #307."""
    assert len(dataset('\ufeff' + json.dumps([GOOD]))) == 1


def test_folder_name_may_be_a_number(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / '2024').mkdir()
    record = dict(image='0.jpg', caption='a')
    (tmp_path / '2024/a.json').write_text(json.dumps([record]))
    assert len(InstructionDataset('a.json', 2024)) == 1


def test_invalid_arguments_are_refused(dataset):
    record = dict(image_id='52', caption='a')
    for limit in (0, -1, True, '3', 1.5):
        with pytest.raises(ValueError, match=f'limit is {limit!r}; expected'):
            dataset([record], limit=limit)
    assert len(dataset([record, record], limit=1)) == 1
    with pytest.raises(ValueError, match='ann_file is .*several files'):
        InstructionDataset(['a.json', 'b.json'])
    for name in ('data_root', 'image_folder'):
        with pytest.raises(ValueError, match=f'{name} is None'):
            dataset([record], **{name: None})
