# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Records of the official question files: what is read, and what is wrong."""

import json

import pytest
from PIL import Image

from minigpt4.evaluation.question_protocols import QUESTION_PROTOCOLS
from minigpt4.evaluation.questions import check_prompt, read_questions

TEN = [
    dict(answer=text, answer_confidence='yes', answer_id=i + 1)
    for i, text in enumerate(['dog'] * 4 + ['puppy'] * 6)
]


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / 'val2014'
    folder.mkdir()
    for name in ('COCO_val2014_000000000139.jpg', '000000000285.jpg'):
        Image.new('RGB', (8, 8)).save(folder / name)
    Image.new('RGB', (8, 8)).save(folder / 'n161313.jpg')
    return folder


def write(path, content):
    path.write_text(json.dumps(content))
    return path


def read(name, source, images, texts=None, **options):
    protocol = QUESTION_PROTOCOLS[name]
    options.setdefault('prompt', protocol.prompt)
    items = protocol.items(source, texts)
    return read_questions(protocol, items, source, images, **options)


def vqa_files(folder, annotation=None, question=None):
    write(
        folder / 'v2_OpenEnded_mscoco_val2014_questions.json',
        dict(
            data_subtype='val2014',
            questions=[
                dict(
                    image_id=139,
                    question='What animal is this?',
                    question_id=139000,
                )
                | (question or {})
            ],
        ),
    )
    return write(
        folder / 'v2_mscoco_val2014_annotations.json',
        dict(
            data_subtype='val2014',
            annotations=[
                dict(
                    question_type='what animal is',
                    multiple_choice_answer='puppy',
                    answers=TEN,
                    image_id=139,
                    answer_type='other',
                    question_id=139000,
                )
                | (annotation or {})
            ],
        ),
    )


@pytest.mark.parametrize('name', ['vqav2', 'okvqa'])
def test_vqa_joins_questions_and_answers(tmp_path, images, name):
    (asked,) = read(name, vqa_files(tmp_path), images).asked
    assert asked.question.id == 139000
    assert asked.question.truth == {'answers': ['dog'] * 4 + ['puppy'] * 6}
    assert asked.file == str(images / 'COCO_val2014_000000000139.jpg')
    assert asked.prompt.startswith('What animal is this? Answer the question')


def test_an_image_id_of_vqa_stays_in_the_folder(tmp_path, images):
    change = dict(image_id='../139')
    source = vqa_files(tmp_path, question=change, annotation=change)
    with pytest.raises(ValueError, match='image_id is .*, which leaves the'):
        read('vqav2', source, images)


def test_vqa_files_of_other_names_are_named(tmp_path, images):
    source = vqa_files(tmp_path).rename(tmp_path / 'a.json')
    texts = tmp_path / 'v2_OpenEnded_mscoco_val2014_questions.json'
    texts = texts.rename(tmp_path / 'q.json')
    assert len(read('vqav2', source, images, texts).asked) == 1
    with pytest.raises(ValueError, match='name the file with --questions'):
        read('vqav2', source, images)


def test_vqav2_and_okvqa_may_be_in_one_folder(tmp_path, images):
    source = vqa_files(tmp_path)
    for name in ('annotations', 'questions'):
        file = next(tmp_path.glob(f'v2_*_{name}.json'))
        text = file.read_text().replace('What animal', 'Which animal')
        other = tmp_path / file.name.removeprefix('v2_')
        other.write_text(text)
    ok = tmp_path / 'mscoco_val2014_annotations.json'
    (first,), (second,) = (
        read(name, file, images).asked
        for name, file in (('vqav2', source), ('okvqa', ok))
    )
    assert first.prompt.startswith('What animal')
    assert second.prompt.startswith('Which animal')


def test_aokvqa(tmp_path, images):
    record = dict(
        split='val',
        image_id=285,
        question_id='22jbM6gDxdaMaunuzgrsBB',
        question="What is in the motorcyclist's mouth?",
        choices=['toothpick', 'food', 'popsicle stick', 'cigarette'],
        correct_choice_idx=3,
        direct_answers=['cigarette'] * 10,
        difficult_direct_answer=False,
        rationales=['He smokes.'],
    )
    difficult = record | dict(question_id='2', difficult_direct_answer=True)
    source = write(tmp_path / 'aokvqa_v1p0_val.json', [record, difficult])
    choices = read('aokvqa', source, images)
    assert [a.question.truth for a in choices.asked] == [{'index': 3}] * 2
    assert choices.asked[0].file == str(images / '000000000285.jpg')
    assert choices.asked[0].prompt == (
        "What is in the motorcyclist's mouth? Choose one answer: toothpick, "
        'food, popsicle stick, cigarette.'
    )
    direct = read('aokvqa-direct', source, images)
    assert len(direct.asked) == 1
    assert 'record 2 has a difficult_direct_answer' in direct.skipped[0]


def test_gqa_of_stanford_and_of_lavis(tmp_path, images):
    official = {
        '201307251': dict(
            semantic=[],
            entailed=[],
            equivalent=[],
            question='Is it overcast?',
            imageId='n161313',
            isBalanced=True,
            groups=dict(glob=None, local='13-weather'),
            answer='no',
            semanticStr='',
            annotations={},
            types={},
            fullAnswer='No, it is clear.',
        )
    }
    lavis = [
        dict(
            question_id=201307251,
            question='Is it overcast?',
            answer='no',
            image='n161313.jpg',
        )
    ]
    first, second = (
        read('gqa', write(tmp_path / name, content), images).asked[0]
        for name, content in (('a.json', official), ('b.json', lavis))
    )
    assert str(first.question.id) == str(second.question.id) == '201307251'
    assert first.question.truth == second.question.truth == {'answer': 'no'}
    assert first.file == second.file
    assert first.prompt == second.prompt
    official['201307251']['imageId'] = '../n161313'
    source = write(tmp_path / 'a.json', official)
    with pytest.raises(ValueError, match='imageId is .*, which leaves the'):
        read('gqa', source, images)


def test_pope(tmp_path, images):
    source = tmp_path / 'coco_pope_random.json'
    line = dict(
        question_id=1,
        image='COCO_val2014_000000000139.jpg',
        text='Is there a tv in the image?',
        label='yes',
    )
    lines = [
        line,
        line | dict(question_id=2, label='maybe'),
        line,  # its id again
        line | dict(question_id=4, image='COCO_val2014_000000000001.jpg'),
        line | dict(question_id=5, label='no', text=' '),
    ]
    source.write_text('\n'.join([*map(json.dumps, lines), 'no json']))
    found = read('pope', source, images)
    (asked,) = found.asked
    assert asked.prompt == 'Is there a tv in the image?'
    assert asked.question.truth == {'label': 'yes'}
    assert found.without_image == ['COCO_val2014_000000000001.jpg']
    texts = '\n'.join(found.skipped)
    assert len(found.skipped) == 4
    assert 'line 2 has the label' in texts
    assert 'line 3 has the question_id 1 of an earlier record' in texts
    assert 'line 5 has the text' in texts
    assert 'line 6' in texts


@pytest.mark.parametrize(
    ('name', 'change', 'message'),
    [
        ('aokvqa', dict(choices=['a']), 'expected a list of texts'),
        ('aokvqa', dict(choices=None), 'expected a list of texts'),
        ('aokvqa', dict(correct_choice_idx=2), 'the index of one of its'),
        ('aokvqa', dict(correct_choice_idx=True), 'the index of one of its'),
        ('aokvqa', dict(question_id=None), 'has no question_id or id'),
        ('aokvqa', dict(correct_choice_idx=0.5), 'the index of one of its'),
        ('aokvqa', dict(question_id=True), 'question_id that is true; exp'),
        ('aokvqa', dict(question_id=1.5), 'question_id that is 1.5; expec'),
        ('aokvqa', dict(image_id=[1]), r'image that is \[1\]; expected a'),
        ('aokvqa', dict(image_id=''), 'image that is empty; expected'),
        ('aokvqa', dict(image_id='../a.jpg'), 'leaves the folder of the im'),
        ('aokvqa', dict(question=3), 'expected a text'),
        ('aokvqa-direct', dict(direct_answers=[]), 'has no direct_answers'),
        ('aokvqa-direct', dict(direct_answers='dog'), '"dog"; expected a li'),
        ('aokvqa-direct', dict(direct_answers=[' ']), 'expected a list of t'),
        (
            'aokvqa-direct',
            dict(difficult_direct_answer='false'),
            'difficult_direct_answer "false"; expected true or false',
        ),
    ],
)
def test_a_wrong_record_is_named(tmp_path, images, name, change, message):
    record = dict(
        image_id=285,
        question_id='x',
        question='What?',
        choices=['a', 'b'],
        correct_choice_idx=1,
        direct_answers=['b'],
    )
    source = write(tmp_path / 'a.json', [record | change])
    with pytest.raises(ValueError, match='record 1 .*' + message):
        read(name, source, images)


def test_a_missing_data_set_says_where_to_get_it(tmp_path, images):
    source = vqa_files(
        tmp_path, question=dict(image_id=7), annotation=dict(image_id=7)
    )
    with pytest.raises(ValueError, match=r'none of the images of 1 question'):
        read('okvqa', source, images)
    with pytest.raises(FileNotFoundError, match=r'okvqa\.allenai\.org'):
        read('okvqa', source, tmp_path / 'none')
    with pytest.raises(FileNotFoundError):
        read('pope', tmp_path / 'none.json', images)


def test_a_limit_counts_questions_that_can_be_asked(tmp_path, images):
    source = tmp_path / 'pope.json'
    source.write_text(
        '\n'.join(
            json.dumps(
                dict(question_id=i, image=image, text='Is it?', label='no')
            )
            for i, image in enumerate(['0.jpg', '285', '285', '285'])
        )
    )
    found = read('pope', source, images, limit=2)
    assert [a.question.id for a in found.asked] == [1, 2]


def test_a_prompt_has_a_place_for_the_question():
    check_prompt('Say: {question} {0}')
    with pytest.raises(ValueError, match=r'has no \{question\}'):
        check_prompt('Describe this.')


def test_a_key_that_occurs_twice_is_named(tmp_path):
    """Of two labels neither is taken."""
    images, source = tmp_path / 'images', tmp_path / 'pope.json'
    images.mkdir()
    (images / 'a.jpg').touch()
    line = '{"question_id": %d, "image": "a.jpg", "text": "Is it?", %s}\n'
    twice = '"label": "yes", "label": "no"'
    source.write_text(line % (1, twice) + line % (2, '"label": "no"'))
    protocol = QUESTION_PROTOCOLS['pope']
    found = read_questions(
        protocol, protocol.items(source, None), source, images, '{question}'
    )
    assert [asked.question.id for asked in found.asked] == [2]
    assert 'has the key "label" twice; expected it once' in found.skipped[0]


@pytest.mark.parametrize('given', ['139000', 139000.0])
@pytest.mark.parametrize('image', ['139', 139.0])
@pytest.mark.parametrize('name', ['vqav2', 'okvqa'])
def test_ids_as_numbers_floats_and_texts_are_joined(
    tmp_path, images, name, given, image
):
    for change in (
        dict(annotation=dict(question_id=given, image_id=image)),
        dict(question=dict(question_id=given, image_id=image)),
    ):
        found = read(name, vqa_files(tmp_path, **change), images)
        (asked,) = found.asked
        assert str(asked.question.id) == '139000'
        assert asked.question.image == '139'
        assert not found.skipped


def test_one_id_in_two_forms_is_one_question(tmp_path, images):
    source = vqa_files(tmp_path)
    content = json.loads(source.read_text())
    (first,) = content['annotations']
    content['annotations'] += [
        first | dict(question_id='139000'),
        first | dict(question_id=139000.0),
        first | dict(question_id='0139000'),  # another text
        first | dict(question_id=None),
    ]
    found = read('vqav2', write(source, content), images)
    assert len(found.asked) == 1
    reasons = [text.partition(', ')[2] for text in found.skipped]
    assert reasons == [
        "record 2 has the question_id '139000' of an earlier record",
        'record 3 has the question_id 139000 of an earlier record',
        "record 4 has the question_id '0139000', which the file of the "
        'questions lacks',
        'record 5 has a question_id that is null; expected a text or a whole '
        'number',
    ]


@pytest.mark.parametrize('name', ['gqa', 'pope', 'aokvqa'])
def test_numbers_that_pandas_writes(tmp_path, images, name):
    record = dict(
        question_id=5.0,
        image=139.0,
        question='Is it?',
        answer='no',
        label='no',
        choices=['yes', 'no'],
        correct_choice_idx=1.0,
    )
    found = read(name, write(tmp_path / 'a.jsonl', record), images)
    (asked,) = found.asked
    assert (asked.question.id, asked.question.image) == (5, '139')
    if name == 'aokvqa':
        assert asked.question.truth == dict(index=1)


def test_a_pope_file_of_one_line(tmp_path, images):
    record = dict(question_id=1, image='139', text='A tv?', label='yes')
    source = write(tmp_path / 'coco_pope_one.json', record)
    assert len(read('pope', source, images).asked) == 1


def test_a_list_of_gqa_in_an_object(tmp_path, images):
    records = [
        dict(question_id=i, image='139', question='Is it?', answer='no')
        for i in (4, 5)
    ]
    source = write(tmp_path / 'a.json', dict(questions=records))
    found = read('gqa', source, images)
    assert [a.question.id for a in found.asked] == [4, 5]


SWAPPED = '"minigpt4 eval" takes the annotations as --questions and the que'


@pytest.mark.parametrize('name', ['vqav2', 'okvqa'])
def test_swapped_files_are_named(tmp_path, images, name):
    source = vqa_files(tmp_path).rename(tmp_path / 'a.json')
    texts = tmp_path / 'v2_OpenEnded_mscoco_val2014_questions.json'
    texts = texts.rename(tmp_path / 'q.json')
    with pytest.raises(ValueError) as error:
        read(name, texts, images, source)
    assert str(error.value).startswith(
        f'{source} has "annotations" but no "questions": is it the file of '
        f'the annotations? {SWAPPED}'
    )
    with pytest.raises(ValueError) as error:
        read(name, texts, images, texts)
    assert str(error.value).startswith(
        f'{texts} has "questions" but no "annotations": is it the file of '
        f'the questions? {SWAPPED}'
    )
    with pytest.raises(ValueError, match=r'a\.json has "annotations" but no'):
        read(name, source, images, source)


@pytest.mark.parametrize(
    ('content', 'reason'),
    [
        ([], 'is an empty list; expected the annotations'),
        ({}, 'is empty: it has no record; expected the annotations'),
        (dict(annotations=[]), 'has an empty list under "annotations"; exp'),
        (dict(annotations=3), 'has no list under "annotations"; expected'),
        (
            {'139000': dict(answers=TEN)},
            'is an object of records by id, with the keys "139000"; expected',
        ),
        (dict(info=dict(), version=2), 'has the keys "info", "version"; exp'),
        (
            [dict(question_id=139000, answer='dog')],
            'has 1 record with the keys "question_id", "answer" and seems to '
            'be answers of a model. Expected VQAv2: v2_mscoco',
        ),
    ],
)
def test_annotations_of_another_form(tmp_path, images, content, reason):
    write(vqa_files(tmp_path), content)
    source = tmp_path / 'v2_mscoco_val2014_annotations.json'
    with pytest.raises(ValueError) as error:
        read('vqav2', source, images)
    assert str(error.value).startswith(f'{source} {reason}')


@pytest.mark.parametrize(
    ('content', 'reason'),
    [
        ([], 'is an empty list; expected the questions'),
        (dict(questions=[]), 'has an empty list under "questions"; expect'),
        (
            {'139000': dict(question='What?')},
            'is an object of records by id, with the keys "139000"; expected',
        ),
    ],
)
def test_questions_of_another_form(tmp_path, images, content, reason):
    source = vqa_files(tmp_path)
    texts = write(tmp_path / 'q.json', content)
    with pytest.raises(ValueError) as error:
        read('vqav2', source, images, texts)
    assert str(error.value).startswith(f'{texts} {reason}')


def test_two_splits_of_vqa(tmp_path, images):
    source = vqa_files(tmp_path, annotation=dict(question_id=5))
    content = json.loads(source.read_text()) | dict(data_subtype='train2014')
    with pytest.raises(ValueError) as error:
        read('vqav2', write(source, content), images)
    assert (
        "questions.json (data_subtype 'train2014' and 'val2014'): it has the "
        'question_id 5, the other file 139000; expected two files of one '
        'split.'
    ) in str(error.value)


@pytest.mark.parametrize('name', ['gqa', 'aokvqa', 'aokvqa-direct', 'pope'])
def test_a_file_of_another_data_set(tmp_path, images, name):
    source = vqa_files(tmp_path)
    with pytest.raises(ValueError) as error:
        read(name, source, images)
    assert (
        'has the keys "data_subtype", "annotations" and seems to be the '
        'annotations of VQAv2 or OK-VQA. Expected '
    ) in str(error.value)
    with pytest.raises(ValueError, match='is an empty list. Expected '):
        read(name, write(tmp_path / 'a.json', []), images)


@pytest.mark.parametrize(
    ('answers', 'reason'),
    [
        (None, 'has no answers of annotators'),
        ([], 'has no answers of annotators'),
        ([''] * 10, 'has no answers of annotators'),
        (TEN[:3], 'has 3 answers of annotators, so that no answer could be'),
        ([*TEN[:9], dict(answer=None)], 'as answer 10 of 10; expected a text'),
        ([*TEN[:9], 3], 'has 3 as answer 10 of 10; expected a text'),
    ],
)
def test_annotators_without_answers(tmp_path, images, answers, reason):
    source = vqa_files(tmp_path, annotation=dict(answers=answers))
    with pytest.raises(ValueError, match='record 1 .*' + reason):
        read('vqav2', source, images)


def test_a_cut_file_of_annotations(tmp_path, images):
    source = vqa_files(tmp_path)
    source.write_text(source.read_text()[:-20])
    with pytest.raises(ValueError, match='the file ends too early'):
        read('vqav2', source, images)
