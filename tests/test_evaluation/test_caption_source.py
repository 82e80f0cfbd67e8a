# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Files of captions; generating them is tested with each protocol."""

import json

import pytest

from minigpt4.evaluation.caption_source import read_captions

ROWS = [dict(image_id=1, caption='a'), dict(image_id='2', error='damaged')]


@pytest.mark.parametrize('indent', [None, 2])
def test_a_results_file_of_coco_is_read(tmp_path, indent):
    path = tmp_path / 'results.json'
    path.write_text('\n' + json.dumps(ROWS, indent=indent))
    assert list(read_captions(path)) == ROWS


def test_json_lines_are_read(tmp_path):
    path = tmp_path / 'captions.jsonl'
    path.write_text('\n\n'.join(map(json.dumps, ROWS)))
    assert list(read_captions(path)) == ROWS


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('[]', 'is empty; expected one caption a line, or a list'),
        ('', 'is empty'),
        ('[{"image_id": 1, "caption": "a"}, 3]', 'caption 2 is no caption'),
        ('[{"image_id": 1, "caption": "a"},', 'is not JSON .*expected a list'),
        ('{"image_id": 1, "caption": null}', 'line 1 is no caption'),
        ('{"image_id": [1], "caption": "a"}', r'of line 1 is \[1\]; expected'),
        ('{"image_id": true, "caption": "a"}', 'of line 1 is true; expected'),
        ('{"image_id": 1.5, "caption": "a"}', 'image_id of line 1 is 1.5'),
        ('{"caption": "a"}', 'the image_id of line 1 is null; expected a te'),
        (
            '{"images": [],\n"annotations": [{"caption": "a"}]}',
            'has the keys "annotations", "images", and an empty list under '
            r'"images" \(the captions of COCO\); expected JSON lines',
        ),
        ('{"1": "a",\n "2": "b"}', 'has the keys "1", "2"; expected JSON'),
    ],
)
def test_another_content_is_refused(tmp_path, content, message):
    path = tmp_path / 'captions.json'
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        list(read_captions(path))


def test_ids_are_numbers_floats_or_texts(tmp_path):
    path = tmp_path / 'captions.json'
    path.write_text(
        json.dumps([dict(image_id=i, caption='a') for i in (1, 1.0, '1')])
    )
    assert [row['image_id'] for row in read_captions(path)] == [1, 1, '1']
