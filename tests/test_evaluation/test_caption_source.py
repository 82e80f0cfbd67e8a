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
        ('{"image_id": [1], "caption": "a"}', 'line 1 is no caption'),
    ],
)
def test_another_content_is_refused(tmp_path, content, message):
    path = tmp_path / 'captions.json'
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        list(read_captions(path))
