# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Each format is recognised, and its records are read; damage is reported."""

import gzip
import io
import json
import os
import tarfile

import pytest
from PIL import Image

from minigpt4.data_tools.formats import FORMATS, find_format
from minigpt4.data_tools.import_items import ReadOptions
from minigpt4.datasets.json_values import InvalidJson
from minigpt4.datasets.record_files import read_record_file


@pytest.fixture
def read(tmp_path):
    """Function that writes files, and reads one as (format, items)."""

    def read(files, source=None, name=None, **options):
        for file, content in files.items():
            path = tmp_path / file
            path.parent.mkdir(parents=True, exist_ok=True)
            if not isinstance(content, (bytes, str)):
                content = json.dumps(content)
            if isinstance(content, str):
                content = content.encode()
            path.write_bytes(content)
        source = next(iter(files)) if source is None else source
        format_, path = find_format(tmp_path / source, name)
        items = list(format_.read(path, ReadOptions(**options)))
        return format_.name, items

    return read


def good(items):
    return [item.record for item in items if item.record is not None]


def bad(items):
    return [(item.number, item.problem) for item in items if item.problem]


def png(colour=0):
    buffer = io.BytesIO()
    Image.new('RGB', (8, 8), colour).save(buffer, 'PNG')
    return buffer.getvalue()


def test_folder_of_images_with_texts(read, tmp_path):
    name, items = read(
        {
            'd/Zoë 1.JPG': png(),
            'd/Zoë 1.TXT': '\ufeffa café\r\n\r\nun café\r\n',
            'd/b/c.png': png(),
            'd/b/c.caption': 'a caption',
            'd/lonely.png': png(),
            'd/latin.png': png(),
            'd/latin.txt': b'caf\xe9',
        },
        'd',
    )
    assert name == 'folder'
    assert [(r['image'], r['caption']) for r in good(items)] == [
        (str(tmp_path / 'd/Zoë 1.JPG'), 'a café'),
        (str(tmp_path / 'd/Zoë 1.JPG'), 'un café'),
        (str(tmp_path / 'd/b/c.png'), 'a caption'),
    ]
    problems = ' '.join(text for _, text in bad(items))
    assert 'no text file' in problems and 'not UTF-8' in problems


def test_a_text_file_can_be_one_text(read):
    files = {'d/a.png': png(), 'd/a.txt': 'One.\nTwo.'}
    _, items = read(files, 'd', whole_files=True)
    assert [r['caption'] for r in good(items)] == ['One.\nTwo.']


@pytest.mark.parametrize(
    ('content', 'expected'),
    [
        ('Image,Caption,Note\na.jpg,"a, b",x\n', {'note': 'x'}),
        ('\ufeffurl;text\r\nhttp://h/a.jpg;"a, b"\r\n', {}),
        ('filepath\tdescription\na.jpg\ta, b\n', {}),
        ('a, b\thttp://h/a.jpg\n', {}),
        ('a.jpg|a, b\n', {}),
        (gzip.compress(b'path,text\na.jpg,"a, b"', mtime=0), {}),
        ('path,text\na.jpg,"a, b"'.encode('utf-16'), {}),
    ],
)
def test_tables(read, content, expected):
    name, items = read({'data.csv': content})
    assert name == 'csv'
    (record,) = good(items)
    assert record.pop('image').endswith('a.jpg')
    assert record == {'caption': 'a, b', **expected}


def test_columns_are_named(read):
    files = {'a.tsv': 'x\ty\tcaption\nthe dog\ta.jpg\tno\n'}
    _, items = read(files, image_column='y', text_column='x')
    (record,) = good(items)
    assert (record['image'], record['caption']) == ('a.jpg', 'the dog')


def test_wrong_rows_of_a_table(read):
    text = 'image,caption\na.jpg,two dogs, a cat\nb.jpg,a cat\n"c.jpg,open\n'
    _, items = read({'a.csv': text})
    assert good(items) == [dict(image='b.jpg', caption='a cat')]
    (line, problem), (last, unclosed) = bad(items)
    assert line == 2 and 'has 3 cells, the header has 2' in problem
    assert last == 4 and 'quotation mark that is not closed' in unclosed


@pytest.mark.parametrize(
    ('rows', 'captions', 'lines'),
    [
        ('a.jpg,"open\nb.jpg,fine\nc.jpg,too\n', ['fine', 'too'], [2]),
        # the next quotation mark closes the cell: before a text, at the end
        ('a.jpg,"open\nb.jpg,"x, y"\n', ['x, y'], [2]),
        ('a.jpg,"open\nb.jpg,of 12"\n', ['of 12"'], [2]),
        # real line breaks
        ('a.jpg,"one\ntwo, three"\nb.jpg,x\n', ['one\ntwo, three', 'x'], []),
        ('a.jpg,"one\r\nof ""b.jpg"""\n', ['one\r\nof "b.jpg"'], []),
        ('a.jpg,"one\n2, 3\n"\n', ['one\n2, 3\n'], []),
        ('a.jpg,one\rb.jpg,two\r', ['one', 'two'], []),
        ('a.jpg,\nb.jpg,NaN\nc.jpg\nd.jpg,null x\n', ['null x'], [2, 3, 4]),
    ],
)
def test_rows_of_a_table(read, rows, captions, lines):
    """The import and the training read the same rows."""
    _, items = read({'a.csv': f'image,caption\n{rows}'})
    assert [r['caption'] for r in good(items)] == captions
    assert [line for line, _ in bad(items)] == lines
    path = items[0].file
    records = read_record_file(path).records
    assert [r['caption'] for r in records if isinstance(r, dict)] == captions
    problems = [r.reason for r in records if isinstance(r, InvalidJson)]
    assert problems == [
        f'(line {line}) {problem}' for line, problem in bad(items)
    ]


@pytest.mark.parametrize('end', ['\n', '\r\n', '\r'])
def test_a_separator_line_of_excel(read, end):
    text = end.join(['sep=;', 'image;caption', 'a.jpg;a, b', 'c.jpg;', ''])
    _, items = read({'a.csv': text})
    assert good(items) == [dict(image='a.jpg', caption='a, b')]
    assert bad(items)[0][0] == 4 and 'an empty cell' in bad(items)[0][1]
    assert read_record_file(items[0].file).records[0] == good(items)[0]


def test_a_table_without_known_columns(read):
    with pytest.raises(ValueError, match='--image-column'):
        read({'a.csv': 'x,y\n1,2\n'})
    with pytest.raises(ValueError, match="no column 'z'.*its columns: image"):
        read(
            {'a.csv': 'image,y\n1,2\n'}, image_column='image', text_column='z'
        )


def test_json_lines_of_urls_and_texts(read):
    lines = [
        '{"url": "http://h/1.jpg", "text": "one", "n": NaN}',
        '{"url": "http://h/2.jpg", "text"',
        '{"url": "http://h/3.jpg", "text": ["a", "b"]}',
        '{"url": "http://h/4.jpg", "url": "x", "text": "four"}',
        '{"text": "five"}',
        '[6]',
    ]
    name, items = read({'a.jsonl': '\r\n'.join(lines)})
    assert name == 'json'
    records = good(items)
    assert [r['caption'] for r in records[:3]] == ['one', 'a', 'b']
    assert records[3].key == 'url'  # reported by the check of the record
    assert [line for line, _ in bad(items)] == [2, 5, 6]
    assert all(item.unit == 'line' for item in items)


COCO = dict(
    info={},
    images=[dict(id=1, file_name='1.jpg'), dict(id='2', file_name='2.jpg')],
    licenses=[],
    annotations=[
        dict(id=7, image_id=1, caption='one'),
        dict(id=8, image_id='2', caption=None),
        dict(id=9, image_id=3, caption='three'),
    ],
)


@pytest.mark.parametrize('reverse', [False, True])
@pytest.mark.parametrize('compressed', [False, True])
def test_coco_captions(read, reverse, compressed):
    items = list(COCO.items())
    content = json.dumps(dict(items[::-1] if reverse else items), indent=1)
    if compressed:
        content = gzip.compress(content.encode())
    file = 'captions_a.json.gz' if compressed else 'captions_a.json'
    name, items = read({file: content})
    assert name == 'coco-captions'
    assert [r['image'] for r in good(items)] == ['1.jpg', '2.jpg']
    ((number, problem),) = bad(items)
    assert number == 3 and 'which the table "images" lacks' in problem


INSTANCES = dict(
    images=COCO['images'],
    categories=[dict(id=1, name='person'), dict(id=18, name='dog')],
    annotations=[
        dict(id=1, image_id=1, category_id=18, bbox=[0, 0, 1, 1]),
        dict(id=2, image_id=1, category_id=1, bbox=[0, 0, 1, 1]),
        dict(id=3, image_id=1, category_id=18, bbox=[0, 0, 1, 1]),
        dict(id=4, bbox=[0, 0, 1, 1]),
        dict(id=5, image_id=1, category_id=77, bbox=[0, 0, 1, 1]),
        dict(id=6, image_id='2', category_id=77, bbox=[0, 0, 1, 1]),
    ],
)


def test_coco_instances(read, tmp_path):
    name, items = read({'instances_a.json': INSTANCES})
    assert name == 'coco-instances'
    (record,) = good(items)
    assert record['objects'] == ['dog', 'person']
    assert record['answer'] == 'dog, person'
    assert [number for number, _ in bad(items)] == [4, 5, 6]
    assert 'the category_id 77, which has no name' in bad(items)[1][1]
    _, items = read(
        {'captions_a.json': COCO}, objects=tmp_path / 'instances_a.json'
    )
    assert len(bad(items)) == 4
    assert [r['objects'] for r in good(items)] == [['dog', 'person'], []]


def test_a_folder_of_coco(read):
    name, items = read({'c/annotations/captions_val2017.json': COCO}, 'c')
    assert name == 'coco-captions' and len(good(items)) == 2


def test_cc_sbu_align(read):
    content = dict(annotations=[dict(image_id='2', caption='The image')])
    name, items = read({'d/filter_cap.json': content}, 'd')
    assert name == 'cc_sbu_align'
    assert good(items) == content['annotations']


MESSAGES = [
    {'from': 'human', 'value': '<image>\nWhat?'},
    {'from': 'gpt', 'value': 'A dog.'},
]


@pytest.mark.parametrize('lines', [False, True])
def test_llava(read, lines):
    records = [dict(id=i, image='1.jpg', conversations=MESSAGES) for i in 'ab']
    content = '\n'.join(map(json.dumps, records)) if lines else records
    name, items = read({'llava.json': content})
    assert name == 'llava' and good(items) == records


def test_mmpretrain(read):
    records = [dict(id='2', conversation='###Ask: a ###Answer: b')]
    name, items = read({'a.json': records})
    assert name == 'mmpretrain' and good(items) == records


def test_localized_narratives(read):
    line = dict(
        dataset_id='mscoco_val2017',
        image_id='137576',
        annotator_id=93,
        caption='In this image there are cows.',
        timed_caption=[dict(utterance='In', start_time=0, end_time=1)],
        traces=[[dict(x=0.2, y=-0.05, t=0.022)] * 40_000],
        voice_recording='x.ogg',
    )
    content = f'{json.dumps(line)}\n' * 2
    name, items = read({'coco_val_localized_narratives.jsonl': content})
    assert name == 'narratives'
    assert len(good(items)) == 2 and 'traces' not in good(items)[0]
    assert set(good(items)[1]) == {
        *('dataset_id', 'image_id', 'annotator_id', 'caption')
    }


QUESTIONS = dict(
    data_subtype='val2014',
    questions=[
        dict(image_id=262148, question='Where?', question_id=262148000),
        dict(image_id=262148, question='Who?', question_id=262148001),
    ],
)


def answers(*texts, **more):
    return dict(
        answers=[dict(answer=t, answer_id=i) for i, t in enumerate(texts)],
        image_id=262148,
        **more,
    )


@pytest.mark.parametrize('source', ['annotations', 'questions', 'folder'])
def test_vqa(read, source):
    annotations = dict(
        annotations=[
            answers(
                *('down', 'left'),
                question_id=262148000,
                multiple_choice_answer='down',
            ),
            answers('a', 'man', 'man', question_id=262148001),  # OK-VQA
            answers('x', question_id=5),
        ]
    )
    files = dict(
        annotations='v/v2_mscoco_val2014_annotations.json',
        questions='v/v2_OpenEnded_mscoco_val2014_questions.json',
        folder='v',
    )
    name, items = read(
        {files['annotations']: annotations, files['questions']: QUESTIONS},
        files[source],
    )
    assert name == 'vqa'
    assert [(r['question'], r['answer']) for r in good(items)] == [
        ('Where?', 'down'),
        ('Who?', 'man'),
    ]
    assert good(items)[1]['answers'] == ['a', 'man', 'man']
    assert bad(items)[0][0] == 3


def test_vqa_of_other_images(read):
    """An answer belongs to the image of its question."""
    questions = [
        dict(image_id=1, question='A?', question_id=1),
        dict(image_id=1, question='B?', question_id=2),
        dict(image_id=2, question='B?', question_id=2),
        dict(image_id=3, question=' ', question_id=3),
        dict(image_id='4', question='D?', question_id=4),
    ]
    annotations = [
        dict(image_id=image, question_id=question, multiple_choice_answer='x')
        for image, question in ((9, 1), (1, 1), (1, 2), (3, 3), (4, 4))
    ]
    name = 'v/v2_{}mscoco_val2014_{}.json'
    _, items = read(
        {
            name.format('', 'annotations'): dict(annotations=annotations),
            name.format('a_', 'questions'): dict(questions=questions),
        },
        'v',
    )
    assert [r['question'] for r in good(items)] == ['A?', 'D?']
    problems = bad(items)
    assert [number for number, _ in problems] == [1, 3, 4]
    assert (
        'image_id 9, and its question 1 has the image_id 1' in (problems[0][1])
    )
    assert 'several questions or images' in problems[1][1]
    assert "has the question ' '" in problems[2][1]


def test_vqa_refuses_answers_that_are_no_texts(read):
    name = 'v/v2_{}mscoco_val2014_{}.json'
    annotations = [answers('a', None, 'b', question_id=262148000)]
    annotations += [answers('a', question_id='262148001')]
    _, items = read(
        {
            name.format('', 'annotations'): dict(annotations=annotations),
            name.format('a_', 'questions'): QUESTIONS,
        },
        'v',
    )
    assert [r['id'] for r in good(items)] == ['262148001']
    ((number, problem),) = bad(items)
    assert number == 1 and 'as answer 2 of 3; expected a text' in problem


def test_coco_ids_as_texts_and_numbers(read):
    table = [dict(id='0', file_name='a.jpg'), dict(id=7.0, file_name='b.jpg')]
    captions = [(0, 'A dog.'), ('7', 'A cat.'), (True, 'A cow.')]
    content = dict(
        images=table,
        annotations=[
            dict(id=i, image_id=image, caption=text)
            for i, (image, text) in enumerate(captions)
        ],
    )
    _, items = read({'captions_val.json': content})
    assert [r['image'] for r in good(items)] == ['a.jpg', 'b.jpg']
    assert 'an image_id that is true; expected' in bad(items)[0][1]


def test_vqa_without_its_questions(read):
    content = dict(annotations=[answers('x', question_id=5)])
    with pytest.raises(ValueError, match='--questions FILE'):
        read({'a_mscoco_val2014_annotations.json': content})


def test_aokvqa(read):
    record = dict(
        image_id=299207,
        question_id='22Mex',
        question='What is it?',
        choices=['a', 'b', 'c', 'd'],
        correct_choice_idx=3,
        direct_answers=['d', 'e'],
        rationales=['because'],
    )
    test = dict(image_id=1, question_id='x', question='?', choices=['a'])
    test.update(rationales=[])
    others = [
        {**record, 'correct_choice_idx': 4},
        {**record, 'question': ''},
    ]
    content = [record, test, *others]
    name, items = read({'aokvqa_v1p0_val.json': content})
    assert name == 'a-okvqa'
    assert 'correct_choice_idx 4 and 4 choices' in bad(items)[1][1]
    assert "has the question ''" in bad(items)[2][1]
    assert good(items) == [{**record, 'answer': 'd', 'id': '22Mex'}]
    assert 'has no answer' in bad(items)[0][1]


def test_gqa(read):
    content = {
        '02930152': dict(
            question='Is it red?',
            imageId='n161313',
            answer='no',
            fullAnswer='No.',
            semantic=[dict(operation='select')],
        ),
        '3': dict(question='Is it?', imageId='n1'),
        '4': dict(question='', imageId='n1', answer='yes'),
    }
    name, items = read({'testdev_balanced_questions.json': content})
    assert name == 'gqa'
    assert good(items) == [
        dict(
            question='Is it red?',
            answer='no',
            fullAnswer='No.',
            id='02930152',
            image='n161313',
        )
    ]
    assert 'has no answer' in bad(items)[0][1]
    assert "(4) has the question ''" in bad(items)[1][1]


def test_shards(read):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode='w') as tar:
        for name, content in (
            ('1.JPG', png()),
            ('1.json', b'{"caption": "one", "url": "u"}'),
            ('2.png', png()),
            ('2.txt', 'zwei \u00e4'.encode()),
            ('3.txt', b'three'),
            ('4.jpg', png()),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    name, items = read({'s/00000.tar': buffer.getvalue()}, 's')
    assert name == 'shards'
    assert [(r['image'], r['caption']) for r in good(items)] == [
        ('1.jpg', 'one'),
        ('2.png', 'zwei ä'),
    ]
    assert items[0].image == png()
    assert [number for number, _ in bad(items)] == [3, 4]
    _, items = read({'s/00000.tar': buffer.getvalue()[:2700]}, 's')
    assert any('is damaged' in problem for _, problem in bad(items))


def parquet_columns():
    return dict(
        image=[
            dict(bytes=png(), path=None),
            dict(bytes=None, path='b.png'),
            dict(bytes=png(1), path='c.png'),
        ],
        text=['one', 'two', None],
        score=[0.5, 1.5, None],
    )


def test_parquet(read, tmp_path):
    pyarrow = pytest.importorskip('pyarrow')
    parquet = pytest.importorskip('pyarrow.parquet')
    (tmp_path / 'p').mkdir()
    table = pyarrow.table(parquet_columns())
    parquet.write_table(table, tmp_path / 'p/a.parquet')
    os.mkfifo(tmp_path / 'p/c.parquet')
    name, items = read({'p/b.parquet': b'PAR1 damaged'}, 'p')
    assert name == 'parquet'
    assert [(r['image'], r['caption']) for r in good(items)] == [
        ('a-00000001', 'one'),
        ('b.png', 'two'),
        ('a-00000003', None),
    ]
    assert items[0].image == png() and items[1].image is None
    assert 'cannot be read' in bad(items)[0][1]
    assert 'is a FIFO; expected a regular file' in bad(items)[1][1]


def test_shards_with_the_tables_of_img2dataset(read):
    files = {'s/00000.tar': b'', 's/00000.parquet': b'PAR1'}
    name, _ = read(files, 's')
    assert name == 'shards'


def test_a_saved_data_set(read, tmp_path):
    pyarrow = pytest.importorskip('pyarrow')
    folder = tmp_path / 'h/train'
    folder.mkdir(parents=True)
    table = pyarrow.table(parquet_columns())
    with pyarrow.OSFile(str(folder / 'data-00000.arrow'), 'wb') as file:
        with pyarrow.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table)
    os.mkfifo(folder / 'data-00001.arrow')
    names = ('data-00000.arrow', 'data-00001.arrow')
    state = dict(_data_files=[dict(filename=name) for name in names])
    name, items = read(
        {
            'h/dataset_dict.json': dict(splits=['train']),
            'h/train/state.json': state,
        },
        'h',
    )
    assert name == 'hf'
    assert [r['caption'] for r in good(items)] == ['one', 'two', None]
    assert 'is a FIFO; expected a regular file' in bad(items)[0][1]


def test_a_missing_library_is_named(read, monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'pyarrow', None)
    monkeypatch.setitem(__import__('sys').modules, 'pyarrow.parquet', None)
    with pytest.raises(ImportError, match=r"pip install 'minigpt4\[parquet\]"):
        read({'a.parquet': b'PAR1'})


def test_an_unknown_folder_lists_what_it_contains(read):
    with pytest.raises(ValueError, match='the folder contains x.doc'):
        read({'d/x.doc': 'text'}, 'd')


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('a.json', "[{'image': 'a.jpg'}]", 'single quotation marks'),
        ('a.json', '{"a.jpg": "a dog"}', "first key 'a.jpg' has a string"),
        ('a.json', '{"a.jpg": ["a dog"]}', 'has a list with a string'),
        ('a.json', '[]', 'contains an empty list; expected .."image"'),
        ('a.json', '"hello"', 'contains a string; expected'),
        ('a.json', '[1, 2]', 'its first value is a number; expected'),
        ('a.txt', 'image,caption\na.jpg,x', 'add --format csv'),
        ('a.png', png(), 'it is a PNG image; give a file of captions'),
        ('d/a.png', png(), 'images without texts; expected .* a.txt next'),
    ],
)
def test_an_unknown_source_is_described(read, name, content, message):
    with pytest.raises(ValueError, match=message) as error:
        read({name: content}, 'd' if name[:2] == 'd/' else None)
    assert '\n' not in str(error.value)


def test_a_folder_of_several_files_of_records(read):
    files = {'d/a.csv': 'image,caption\n', 'd/b.json': '[]'}
    with pytest.raises(ValueError, match='2 files of records, a.csv, b.json'):
        read(files, 'd')
    files = {'e/a.csv': 'image,caption\n', 'e/import.json': '{}'}
    assert read(files, 'e')[0] == 'csv'  # import.json is our own


def test_names_are_unique():
    assert len({f.name for f in FORMATS}) == len(FORMATS)
