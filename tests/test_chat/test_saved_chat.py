# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Saved chats: written, read, and refused with the invalid field."""

import json
import re

import pytest
from PIL import Image

from minigpt4.chat.session import ChatSession
from minigpt4.images.read import SampleError


def image(shade):
    return Image.new('RGB', (40, 30), (shade, 120, 255 - shade))


def test_save_and_load_restore_the_chat(tiny_model, tmp_path):
    session = ChatSession(tiny_model, system='the red', max_new_tokens=6)
    path = tmp_path / 'image.png'
    image(0).save(path)
    session.answer('describe', [path])
    session.answer('and', [image(50)])
    file = tmp_path / 'chats' / 'chat.json'
    session.save(file)
    stored = json.loads(file.read_text())
    assert stored['images'][0] == str(path)
    assert stored['images'][1].startswith('data:image/png;base64,')
    loaded = ChatSession.load(file, tiny_model, max_new_tokens=6)
    assert loaded.system == 'the red'
    assert [(t.question, t.answer) for t in loaded.turns] == [
        (t.question, t.answer) for t in session.turns
    ]
    assert loaded.images[1].tobytes() == image(50).tobytes()
    assert loaded.answer('what').token_ids and len(loaded.turns) == 3
    loaded.save(file)
    again = json.loads(file.read_text())
    assert again['images'] == stored['images']
    assert again['turns'][:2] == stored['turns']


TURN = '{"question": "<ImageHere> a", "answer": "b"}'


@pytest.mark.parametrize(
    'content, reason',
    [
        ('', 'not JSON'),
        ('[]', r'it is \[\], not an object'),
        ('null', 'it is null'),
        ('5', 'it is 5'),
        ('NaN', 'it is NaN'),
        ('"chat"', 'it is "chat"'),
        ('{"images": []}', 'it has no turns'),
        ('{"turns": 3}', 'turns is 3, not a list'),
        ('{"turns": []}', 'it has no images'),
        ('{"turns": [5], "images": []}', 'turn 1 is 5, not an object'),
        ('{"turns": [{}], "images": []}', 'turn 1 has no question'),
        (
            f'{{"turns": [{TURN}, {{"question": "a"}}], "images": []}}',
            'turn 2',
        ),
        (
            '{"turns": [{"role": "user", "content": "a"}], "images": []}',
            'turn 1 has no question',
        ),
        (
            '{"turns": [{"question": 5, "answer": "b"}], "images": []}',
            'the question of turn 1 is 5',
        ),
        (
            '{"turns": [{"question": "a", "answer": NaN}], "images": []}',
            'the answer of turn 1 is NaN',
        ),
        (
            '{"images": [], "turns": [{"question": "", "answer": "\\ud83d"}]}',
            'the answer of turn 1 contains half a character',
        ),
        ('{"turns": [], "images": {}}', 'images is'),
        ('{"turns": [], "images": [5]}', 'image 1 is 5'),
        (
            '{"turns": [], "images": ["data:x;base64,!"]}',
            'image 1 is not base64',
        ),
        (f'{{"turns": [{TURN}], "images": ["a", "b"]}}', '1 <ImageHere>, but'),
        ('{"turns": [], "images": [], "system": 5}', 'system is 5'),
        ('{"turns": [], "images": [], "version": 2}', 'its version is 2'),
        ('[' * 100_000, 'nested too deeply'),
        ('{"turns": ' + '9' * 9999 + '}', 'not JSON|turns is 9'),
        ('\x89PNG', 'not JSON'),
    ],
)
def test_invalid_files_are_refused(tiny_model, tmp_path, content, reason):
    file = tmp_path / 'chat.json'
    file.write_text(content, 'latin-1')
    with pytest.raises(ValueError, match='is not a saved chat') as error:
        ChatSession.load(file, tiny_model)
    assert re.search(reason, str(error.value))
    assert '\n' not in str(error.value)


def test_byte_order_mark_and_extra_fields_are_accepted(tiny_model, tmp_path):
    file = tmp_path / 'chat.json'
    content = '{"turns": [], "images": [], "system": null, "date": 5}'
    file.write_text(content, 'utf-8-sig')
    assert not ChatSession.load(file, tiny_model).turns


def test_missing_image_is_named(tiny_model, tmp_path):
    file = tmp_path / 'chat.json'
    content = dict(
        system=None,
        turns=[dict(question='<Img><ImageHere></Img> a', answer='b')],
        images=[str(tmp_path / 'gone.png')],
    )
    file.write_text(json.dumps(content))
    with pytest.raises(SampleError, match='gone.png does not exist'):
        ChatSession.load(file, tiny_model)
