# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Each layout is one that its readers read without changes."""

import json

import pytest

from minigpt4.curation.export_layouts import (
    LAYOUTS,
    ExportRow,
    draw_question,
)
from minigpt4.curation.ledger import LedgerImage
from minigpt4.curation.selection import SelectedImage
from minigpt4.datasets.parse_records import RecordError, read_record

TEXT = 'A "red" wall — café, 100 % new.\n\nTwo cats.'


def row(text=TEXT, draft='A wall wall.', number=7):
    image = LedgerImage(number, f'd{number}', '/i.jpg', dict(source='web'))
    selected = SelectedImage(image, text, draft, 'accept', 1)
    return ExportRow(str(number), selected, 'Describe it.', b'\xff\xd8jpeg')


def written(name, folder, *rows):
    layout = LAYOUTS[name](folder)
    for item in rows:
        layout.add(item, layout.record(item))
    layout.close()
    return layout


@pytest.mark.parametrize('name', ['cc_sbu_align', 'conversations', 'llava'])
def test_stage_2_reads_the_records(tmp_path, name):
    layout = written(name, tmp_path, row(), row('Other.', number=8))
    assert layout.num_rows == 2
    content = json.loads(layout.path.read_text('utf-8'))
    records = content['annotations'] if name == 'cc_sbu_align' else content
    found = [read_record(r, i).content for i, r in enumerate(records)]
    image = '7.jpg' if name == 'llava' else '7'
    assert found[0]['images'] == [image]
    assert found[0]['turns'][0].answer == TEXT
    assert found[1]['turns'][0].answer == 'Other.'


@pytest.mark.parametrize(
    'text', ['A wall. ###Ask: Why? ###Answer: So.', '###Answer: wall', '']
)
def test_a_text_with_marks_is_refused(tmp_path, text):
    with pytest.raises(RecordError):
        LAYOUTS['conversations'](tmp_path).record(row(text))


def test_preference_pairs_have_the_draft_as_rejected(tmp_path):
    same = row('A wall.', ' A wall. ', number=8)
    layout = written('preference', tmp_path, row(), same, row('B.', ''))
    assert layout.num_rows == 1 and layout.num_omitted == 2
    (line,) = layout.path.read_text('utf-8').splitlines()
    assert json.loads(line) == dict(
        images=['image/7.jpg'],
        prompt=[
            dict(
                role='user',
                content=[
                    dict(type='image'),
                    dict(type='text', text='Describe it.'),
                ],
            )
        ],
        chosen=[
            dict(role='assistant', content=[dict(type='text', text=TEXT)])
        ],
        rejected=[
            dict(
                role='assistant',
                content=[dict(type='text', text='A wall wall.')],
            )
        ],
    )


def test_parquet_has_the_images(tmp_path):
    parquet = pytest.importorskip('pyarrow.parquet')
    rows = [row(number=number) for number in range(150)]
    layout = written('parquet', tmp_path, *rows)
    assert layout.num_rows == 150
    table = parquet.read_table(layout.path)
    assert table.num_rows == 150
    first = table.slice(0, 1).to_pylist()[0]
    assert first['image'] == dict(bytes=b'\xff\xd8jpeg', path='0.jpg')
    assert first['caption'] == TEXT and first['source'] == 'web'
    assert first['licence'] is None
    features = json.loads(table.schema.metadata[b'huggingface'])
    assert features['info']['features']['image'] == {'_type': 'Image'}
    assert set(features['info']['features']) == set(table.column_names)


def test_an_image_always_draws_the_same_question():
    questions = ['a', 'b', 'c']
    images = [LedgerImage(n, f'd{n}', '', {}) for n in range(60)]
    drawn = [draw_question(questions, image) for image in images]
    assert drawn == [draw_question(questions, image) for image in images]
    assert set(drawn) == set(questions)
