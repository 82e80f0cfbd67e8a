# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Lists of pictures as users have them, and cells that are no formulas."""

import codecs
import csv
import io
import json
import os
import unicodedata
from pathlib import Path

import pytest

from minigpt4.captioning.image_lists import Question, read_list
from minigpt4.captioning.sources import find_questions
from minigpt4.captioning.spreadsheet import plain_text, protected_cell


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with a few files, which is the current one."""
    monkeypatch.chdir(tmp_path)
    for name in ('a.png', 'b.png', '#c.png', 'd e.png', 'ä.png'):
        Path(name).write_bytes(b'')
    return tmp_path


def listed(name: str, content: 'str | bytes') -> list[Question]:
    data = content if isinstance(content, bytes) else content.encode()
    Path(name).write_bytes(data)
    return read_list(name)


ASKED = [Question('a.png', 'What, where?'), Question('ä.png')]


@pytest.mark.parametrize(
    'name, content',
    [
        ('l.csv', 'image,prompt\na.png,"What, where?"\nä.png,\n'),
        ('l.csv', '\ufeffimage,prompt\r\na.png,"What, where?"\r\nä.png\r\n'),
        ('l.csv', 'image;prompt\na.png;What, where?\nä.png;\n'),
        ('l.csv', 'sep=;\r\nimage;prompt\r\na.png;What, where?\r\nä.png;\r\n'),
        ('l.csv', 'image\tprompt\na.png\tWhat, where?\nä.png\t \n'),
        ('l.csv', '\n Prompt , IMAGE ,n\n"What, where?",a.png,1\n\n,ä.png,2'),
        ('l.csv', 'image,prompt\na.png,"What, where?",,\nä.png,,,\n,,\n'),
        ('l.CSV', 'image,prompt\ra.png,"What, where?"\rä.png,\r'),
        ('l.tsv', 'image\tprompt\na.png\tWhat, where?\nä.png\t\n'),
        ('l.tsv', 'image,prompt\na.png,"What, where?"\nä.png,\n'),
        (
            'l.csv',
            'image\tprompt\na.png\tWhat, where?\nä.png\t\n'.encode('utf-16'),
        ),
        (
            'l.jsonl',
            codecs.BOM_UTF8
            + b'{"image": "a.png", "prompt": "What, where?"}\r\n\n'
            + '{"image": "ä.png", "prompt": null}'.encode(),
        ),
        (
            'l.jsonl',
            '{"prompt": "What, where?", "image": "a.png", "x": [1]}\n'
            '{"image": "ä.png", "prompt": " "}\n',
        ),
    ],
)
def test_lists_as_programs_write_them(name, content):
    assert listed(name, content) == ASKED


def test_a_quoted_cell_has_line_ends():
    text = 'image,prompt\na.png,"One.\nTwo ""x""."\nb.png,\n'
    assert listed('l.csv', text) == [
        Question('a.png', 'One.\nTwo "x".'),
        Question('b.png'),
    ]


def test_a_text_list_has_comments_blank_lines_and_every_kind_of_path(
    folder, monkeypatch
):
    monkeypatch.setenv('HOME', str(folder))
    text = (
        '# pictures of today\r\n\r\n  \r\na.png\r\n#c.png\r\n~/b.png\r\n'
        f'{folder}/a.png\r\nfile://{folder}/d%20e.png\r\n./b.png \r\n'
        'sub/../ä.png\r\ngone.png\r\n'
    )
    assert listed('l.txt', text) == [
        Question('a.png'),
        Question('#c.png'),
        Question(f'{folder}/b.png'),
        Question(f'{folder}/a.png'),
        Question(f'{folder}/d e.png'),
        Question('b.png'),
        Question('ä.png'),
        Question('gone.png'),
    ]
    assert listed('cr.txt', 'a.png\rb.png\r') == [
        Question('a.png'),
        Question('b.png'),
    ]


@pytest.mark.parametrize(
    'name, content, image, error',
    [
        ('l.jsonl', '{"image": 5}', 'l.jsonl line 2', 'image is 5'),
        ('l.jsonl', '{"image": ""}', 'l.jsonl line 2', 'names no picture'),
        ('l.jsonl', '[1, 2]', 'l.jsonl line 2', 'it is [1, 2]; expected an'),
        ('l.jsonl', '{"image": "a', 'l.jsonl line 2', 'it is not JSON'),
        ('l.jsonl', '[' * 99999, 'l.jsonl line 2', 'nested too deeply'),
        ('l.jsonl', '9' * 9999, 'l.jsonl line 2', 'line 2: it is'),
        ('l.jsonl', '{"image": "a\\u0000b"}', 'a\0b', 'has a NUL character'),
        ('l.jsonl', '{"image": "\\ud800.png"}', '\ud800.png', 'half a char'),
        ('l.jsonl', '{"image": "a.png", "prompt": 5}', 'a.png', 'is 5; exp'),
        (
            'l.jsonl',
            '{"image": "a.png", "prompt": "cut \\ud83d"}',
            'a.png',
            'half a character',
        ),
        ('l.txt', 'https://x.org/a.png', 'https://x.org/a.png', 'an address'),
        ('l.txt', 'file://host/a.png', 'file://host/a.png', 'this computer'),
        ('l.txt', 'x\0.png', 'x\0.png', 'has a NUL character'),
        ('l.csv', 'a.png,What, where', 'l.csv line 3', 'it has 3 cells'),
        ('l.csv', 'a.png,"x" y', 'l.csv line 3', 'it is not a row of CSV'),
        ('l.csv', ',What?', 'l.csv line 3', 'names no picture'),
        ('l.csv', b'a.png,caf\xe9?', 'a.png', 'not UTF-8 (U+DCE9'),
    ],
)
def test_a_broken_row_is_its_own_error(name, content, image, error):
    rows = {
        'jsonl': [b'{"image": "b.png"}', b'', b'{"image": "b.png"}'],
        'txt': [b'b.png', b'', b'b.png'],
        'csv': [b'image,prompt', b'b.png,', b'', b'b.png,'],
    }[name.partition('.')[2]]
    at = rows.index(b'')
    rows[at] = content if isinstance(content, bytes) else content.encode()
    first, broken, last = listed(name, b'\n'.join(rows))
    assert first == last == Question('b.png')
    assert broken.image == image and error in broken.error
    assert '\0' not in broken.error and broken.error.count('\n') == 0


@pytest.mark.parametrize(
    'name, content, message',
    [
        ('l.csv', 'a.png\nb.png\n', 'has the columns a.png; expected a col'),
        ('l.csv', '', r'columns \(none\)'),
        ('l.csv', 'image,image\na.png,b.png\n', 'columns image, image'),
        ('l.csv', 'file,text\na.png,b\n', 'columns file, text'),
        ('l.csv', 'im\x1bage\na.png\n', r'im\\x1bage'),
        ('l.jsonl', 'a.png\nb.png\n', 'cannot be read as a list: .* line 1'),
        ('l.txt', codecs.BOM_UTF16_LE + b'a', 'utf-16.*save it as UTF-8'),
    ],
)
def test_what_is_no_list_is_refused(name, content, message):
    with pytest.raises(ValueError, match=message):
        listed(name, content)


def test_a_list_is_a_regular_file():
    os.mkfifo('l.txt')
    with pytest.raises(ValueError, match='l.txt is a FIFO'):
        find_questions(['l.txt'])


def test_addresses_are_refused_and_a_glob_finds_what_is_no_file():
    with pytest.raises(ValueError, match='is an address, not a file'):
        find_questions(['https://example.org/a.png'])
    os.mkfifo('f.png')
    assert Question('f.png') in find_questions(['*.png'])


def test_linked_folders_are_searched_once():
    """fastai #2270, pytorch-image-models #334."""
    for name in ('d/x.png', 'other/z.png'):
        Path(name).parent.mkdir()
        Path(name).write_bytes(b'')
    Path('d/link').symlink_to('../other')
    Path('d/loop').symlink_to('../d')
    found = [question.image for question in find_questions(['d'], True)]
    assert found == ['d/x.png', 'd/link/z.png']
    assert len(find_questions(['d'])) == 1


TEXTS = [
    '=1+1',
    '+1',
    '-1',
    '@SUM(1)',
    '\t=1',
    '\r=1',
    '\n=1',
    '=HYPERLINK("http:,,x","y")',
    "=cmd|' /C calc'!A0",
    "'=1",
    "''+1",
    'a;=1',
    'a;\'-b"c',
    'a\t@b',
    'A list:\n- one\n- two\n\n=end',
    '\uff1d1',
    '-',
    "'",
    "'quoted'",
    '',
    ' =1',
    'plain text, 1 + 1 = 2',
    'a\r\n=b',
]


@pytest.mark.parametrize('text', TEXTS)
def test_no_cell_is_a_formula_and_every_text_comes_back(text):
    cell = protected_cell(text)
    assert plain_text(cell) == text
    # in every country's separator, quoted or not
    for separator in ';\t\n\r':
        for part in cell.split(separator):
            assert not part.startswith(tuple('=+-@\uff1d'))
    assert not cell.startswith(('\t', '\r', '\n'))


@pytest.mark.parametrize(
    'text', ['1 + 1 = 2', ' =1', "'", "'quoted'", '', 'a-b; c', 'x\ny', "it's"]
)
def test_other_cells_are_not_changed(text):
    assert protected_cell(text) == plain_text(text) == text


def test_texts_come_back_through_csv():
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(['image', 'prompt'])
    asked = [text for text in TEXTS if text.strip()]
    writer.writerows(
        [protected_cell(f'{text}.png'), protected_cell(text)] for text in asked
    )
    found = listed('l.csv', file.getvalue())
    assert [question.prompt for question in found] == asked
    # JSON has every text as it is
    lines = [json.dumps(dict(image='a.png', prompt=text)) for text in asked]
    found = listed('l.jsonl', '\n'.join(lines))
    assert [question.prompt for question in found] == asked


@pytest.mark.parametrize('form, other', [('NFC', 'NFD'), ('NFD', 'NFC')])
def test_a_name_is_found_in_another_unicode_normalisation(form, other):
    """TheLastGimbus/GooglePhotosTakeoutHelper #247: files of macOS."""
    name = unicodedata.normalize(form, 'été.png')
    Path(name).touch()
    Path('list.txt').write_text(unicodedata.normalize(other, name))
    assert [q.image for q in find_questions(['list.txt'], False)] == [name]
