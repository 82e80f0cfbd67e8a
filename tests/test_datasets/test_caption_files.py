# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Captions in tables, and in text files next to images."""

import pytest
from PIL import Image

from minigpt4.datasets import InstructionDataset


def read(tmp_path, ann_file):
    dataset = InstructionDataset(
        ann_file, data_root=str(tmp_path), image_folder=''
    )
    return [
        (record['images'], record['turns'][0].question)
        + (record['turns'][0].answer,)
        for record in dataset.records
        if record
    ]


@pytest.mark.parametrize('separator', [',', ';', '\t', '|'])
def test_a_table_is_read(tmp_path, separator):
    lines = (
        ('Image', 'note', 'Caption '),
        ('a.jpg', '', '"two\nlines"'),
        ('b.jpg', 'x', 'a cat'),
        ('', '', ''),
        ('a.jpg', '', '"another"'),
    )
    text = '\n'.join(separator.join(cells) for cells in lines)
    (tmp_path / 'data.csv').write_text(text, encoding='utf-8-sig')
    assert read(tmp_path, 'data.csv') == [
        (['a.jpg'], '', 'two\nlines'),
        (['b.jpg'], '', 'a cat'),
        (['a.jpg'], '', 'another'),
    ]


def test_a_table_of_questions_is_read(tmp_path):
    (tmp_path / 'data.tsv').write_text(
        'file_name\tquestion\tanswer\na.jpg\twhat?\ta cat'
    )
    assert read(tmp_path, 'data.tsv') == [(['a.jpg'], 'what?', 'a cat')]


def test_an_invalid_row_is_skipped(tmp_path, log):
    (tmp_path / 'data.csv').write_text(
        'image,caption\na.jpg,\nb.jpg,x\nc.jpg,a dog, a cat\n'
    )
    assert read(tmp_path, 'data.csv') == [(['b.jpg'], '', 'x')]
    assert 'record 0 of data.csv' in log[0]
    assert 'has an empty cell in the column caption' in log[0]
    assert '(line 4) has 3 cells, the header has 2' in log[1]


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'a,b\n1,2', "no column caption in its first line .'a,b'"),
        (b'', 'no column caption'),
        (b'image,caption\n', 'has no captions; expected a line'),
        (b'image,caption\na,\xff', 'is not UTF-8'),
        (b'PK\x03\x04', 'it is a ZIP archive; unpack it with unzip'),
    ],
)
def test_other_tables_are_refused(tmp_path, content, message):
    (tmp_path / 'data.csv').write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read(tmp_path, 'data.csv')


def test_a_missing_table_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match='expected a table'):
        read(tmp_path, 'data.csv')


def test_text_files_next_to_images_are_read(tmp_path):
    (tmp_path / 'photos' / 'more').mkdir(parents=True)
    for name in ('b.jpg', 'a.PNG', 'more/c.jpg', 'none.jpg', '.d.jpg'):
        Image.new('RGB', (4, 4)).save(tmp_path / 'photos' / name)
    for name, text in (
        ('b.txt', 'a cat\n\n  a pet \n'),
        ('a.caption', 'a dog'),
        ('more/c.txt', 'a bird'),
        ('.d.txt', 'hidden'),
        ('notes.txt', 'without image'),
    ):
        (tmp_path / 'photos' / name).write_text(text)
    assert read(tmp_path, 'photos') == [
        (['a.PNG'], '', 'a dog'),
        (['b.jpg'], '', 'a cat'),
        (['b.jpg'], '', 'a pet'),
        (['more/c.jpg'], '', 'a bird'),
    ]
    with pytest.raises(ValueError, match='a text file next to each image'):
        (tmp_path / 'empty').mkdir()
        read(tmp_path, 'empty')
