# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Lists of images in the forms that programs write, and their errors."""

import codecs
import csv
import io
import json
from pathlib import Path

import pytest

from minigpt4.captioning.csv_escaping import protected_cell
from minigpt4.captioning.image_lists import ImageEntry, read_list


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The current folder, with a few files."""
    monkeypatch.chdir(tmp_path)
    for name in ('a.png', 'b.png', '#c.png', 'd e.png', 'ä.png'):
        Path(name).write_bytes(b'')
    return tmp_path


def read(name: str, content: 'str | bytes') -> list[ImageEntry]:
    data = content if isinstance(content, bytes) else content.encode()
    Path(name).write_bytes(data)
    return read_list(name)


ENTRIES = [ImageEntry('a.png', 'What, where?'), ImageEntry('ä.png')]


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
def test_every_dialect_gives_the_same_entries(name, content):
    assert read(name, content) == ENTRIES


def test_a_quoted_cell_may_have_line_ends():
    text = 'image,prompt\na.png,"One.\nTwo ""x""."\nb.png,\n'
    assert read('l.csv', text) == [
        ImageEntry('a.png', 'One.\nTwo "x".'),
        ImageEntry('b.png'),
    ]


def test_a_text_list_has_comments_blank_lines_and_every_kind_of_path(
    folder, monkeypatch
):
    monkeypatch.setenv('HOME', str(folder))
    text = (
        '# images of today\r\n\r\n  \r\na.png\r\n#c.png\r\n~/b.png\r\n'
        f'{folder}/a.png\r\nfile://{folder}/d%20e.png\r\n./b.png \r\n'
        'sub/../ä.png\r\ngone.png\r\n'
    )
    assert read('l.txt', text) == [
        ImageEntry('a.png'),
        ImageEntry('#c.png'),
        ImageEntry(f'{folder}/b.png'),
        ImageEntry(f'{folder}/a.png'),
        ImageEntry(f'{folder}/d e.png'),
        ImageEntry('b.png'),
        ImageEntry('ä.png'),
        ImageEntry('gone.png'),
    ]
    assert read('cr.txt', 'a.png\rb.png\r') == [
        ImageEntry('a.png'),
        ImageEntry('b.png'),
    ]


@pytest.mark.parametrize(
    'name, content, image, error',
    [
        ('l.jsonl', '{"image": 5}', 'l.jsonl line 2', 'image is 5'),
        ('l.jsonl', '{"image": ""}', 'l.jsonl line 2', 'names no image'),
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
        ('l.csv', ',What?', 'l.csv line 3', 'names no image'),
        ('l.csv', b'a.png,caf\xe9?', 'a.png', 'not UTF-8 (U+DCE9'),
    ],
)
def test_an_invalid_row_is_an_entry_with_an_error(name, content, image, error):
    rows = {
        'jsonl': [b'{"image": "b.png"}', b'', b'{"image": "b.png"}'],
        'txt': [b'b.png', b'', b'b.png'],
        'csv': [b'image,prompt', b'b.png,', b'', b'b.png,'],
    }[name.partition('.')[2]]
    at = rows.index(b'')
    rows[at] = content if isinstance(content, bytes) else content.encode()
    first, invalid, last = read(name, b'\n'.join(rows))
    assert first == last == ImageEntry('b.png')
    assert invalid.image == image and error in invalid.error
    assert '\0' not in invalid.error and invalid.error.count('\n') == 0


@pytest.mark.parametrize(
    'name, content, message',
    [
        ('l.csv', 'a.png\nb.png\n', 'has the columns a.png; expected one'),
        ('l.csv', '', r'columns \(none\)'),
        ('l.csv', 'image,image\na.png,b.png\n', 'columns image, image'),
        ('l.csv', 'file,text\na.png,b\n', 'columns file, text'),
        ('l.csv', 'im\x1bage\na.png\n', r'im\\x1bage'),
        ('l.jsonl', 'a.png\nb.png\n', 'cannot be read as a list: .* line 1'),
        ('l.txt', codecs.BOM_UTF16_LE + b'a', 'utf-16.*save it as UTF-8'),
    ],
)
def test_a_file_without_valid_rows_is_refused(name, content, message):
    with pytest.raises(ValueError, match=message):
        read(name, content)


PROMPTS = [
    '=1+1',
    "'=1",
    'a;=1',
    'a;\'-b"c',
    'A list:\n- one\n- two\n\n=end',
    ' =1',
    'plain text, 1 + 1 = 2',
    'a\r\n=b',
]


def test_prompts_are_restored_from_csv_and_jsonl():
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(['image', 'prompt'])
    writer.writerows(
        [protected_cell(f'{text}.png'), protected_cell(text)]
        for text in PROMPTS
    )
    found = read('l.csv', file.getvalue())
    assert [entry.prompt for entry in found] == PROMPTS
    # JSON needs no protection
    lines = [json.dumps(dict(image='a.png', prompt=text)) for text in PROMPTS]
    found = read('l.jsonl', '\n'.join(lines))
    assert [entry.prompt for entry in found] == PROMPTS


@pytest.mark.parametrize('name', ['l.txt', 'l.csv', 'l.jsonl'])
def test_a_file_that_is_no_text_is_named(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b'\x89PNG\r\n\x1a\n')
    with pytest.raises(ValueError, match='is no list .it is a PNG image'):
        read_list(str(path))
