# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Official files of VQA and Localized Narratives for training."""

import json

import pytest
from PIL import Image

from minigpt4.data_tools.official_dataset import OfficialDataset
from minigpt4.datasets import FormatQuestion, PackSample


def keep_paths(record):
    """The images are not decoded."""
    return {**record, 'images': list(record['images'])}


PIPELINE = [
    keep_paths,
    FormatQuestion('{question} Short answer:'),
    PackSample(),
]


@pytest.fixture
def coco(tmp_path):
    """A folder of images with COCO's names."""
    for name in ('train2014/COCO_train2014_000000000009', 'a1b2'):
        file = tmp_path / 'coco' / f'{name}.jpg'
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (8, 8)).save(file)
    return tmp_path / 'coco'


def write_vqa(folder):
    answers = [
        dict(
            question_id=number,
            image_id=9,
            multiple_choice_answer=answer,
            answers=[dict(answer=answer, answer_id=i) for i in range(10)],
        )
        for number, answer in ((90, 'net'), (91, 'pitcher'))
    ]
    questions = [
        dict(question_id=number, image_id=9, question=text)
        for number, text in ((90, 'What is this?'), (91, 'Who is it?'))
    ]
    folder.mkdir()
    name = 'v2_mscoco_train2014_annotations.json'
    (folder / name).write_text(
        json.dumps(dict(data_subtype='train2014', annotations=answers))
    )
    (folder / 'v2_OpenEnded_mscoco_train2014_questions.json').write_text(
        json.dumps(dict(data_subtype='train2014', questions=questions))
    )
    return folder / name


def test_vqa_as_it_is(coco, tmp_path):
    data = OfficialDataset(
        str(write_vqa(tmp_path / 'vqa')), str(coco), 'vqa', pipeline=PIPELINE
    )
    assert len(data) == 2 and data.num_images == 1
    sample = data[1]
    assert sample.images == [
        str(coco / 'train2014/COCO_train2014_000000000009.jpg')
    ]
    (turn,) = sample.turns
    assert (turn.question, turn.answer) == (
        'Who is it? Short answer:',
        'pitcher',
    )
    assert [file for _, file in data.image_sources()] == sample.images
    assert data[0, 5].turns[0].answer == 'net'
    assert data.error_counts == {} and data.num_skipped == 0


def test_narratives_of_a_folder(coco, tmp_path):
    folder = tmp_path / 'narratives'
    folder.mkdir()
    lines = [
        dict(
            dataset_id='mscoco_train2014',
            image_id=image,
            annotator_id=3,
            caption=f'In this image we can see {image}.',
            timed_caption=[dict(utterance='In', start_time=0, end_time=0.1)],
            traces=[[dict(x=0.1, y=0.2, t=0.01)]],
            voice_recording='x.ogg',
        )
        for image in ('9', 'a1b2')
    ]
    lines.append(dict(lines[0], caption=''))
    for number, part in enumerate((lines[:1], lines[1:])):
        name = f'coco_train_localized_narratives-0000{number}-of-00002.jsonl'
        (folder / name).write_text(
            ''.join(json.dumps(line) + '\n' for line in part)
        )
    data = OfficialDataset(
        str(folder), str(coco), 'narratives', pipeline=PIPELINE
    )
    assert [data[i].turns[0].answer for i in range(len(data))] == [
        'In this image we can see 9.',
        'In this image we can see a1b2.',
    ]
    assert data[0].turns[0].question == ''
    assert data[1].images == [str(coco / 'a1b2.jpg')]
    assert len(OfficialDataset(str(folder), str(coco), 'narratives', limit=1))


def test_errors(coco, tmp_path):
    source = str(write_vqa(tmp_path / 'vqa'))
    (tmp_path / 'empty').mkdir()
    with pytest.raises(ValueError, match='none of the first 1 images .* 9; '):
        OfficialDataset(source, str(tmp_path / 'empty'), 'vqa')
    with pytest.raises(FileNotFoundError, match='is no folder'):
        OfficialDataset(source, str(tmp_path / 'none'), 'vqa')
    with pytest.raises(FileNotFoundError, match='does not exist'):
        OfficialDataset(str(tmp_path / 'none.json'), str(coco))
    with pytest.raises(ValueError, match='limit is 0'):
        OfficialDataset(source, str(coco), limit=0)
    file = tmp_path / 'aokvqa_v1p0_test.json'
    file.write_text('[{"question_id": "a", "image_id": 9, "question": "Q?"}]')
    with pytest.raises(ValueError, match='no record .* has no answer'):
        OfficialDataset(str(file), str(coco), 'a-okvqa')
