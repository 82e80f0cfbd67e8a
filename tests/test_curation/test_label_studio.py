# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Tasks for Label Studio, and its exports."""

import json
import xml.etree.ElementTree

import pytest
from PIL import Image
from tests.review_ledger import final_text, make_ledger, step_numbers

from minigpt4.curation.label_studio import (
    config_file,
    read_annotations,
    write_tasks,
)
from minigpt4.curation.review_import import import_decisions
from minigpt4.curation.review_queue import ReviewQueue


@pytest.fixture
def queue(tmp_path):
    with make_ledger(tmp_path) as ledger:
        yield ReviewQueue(ledger, step_numbers(ledger))


def annotation(decision, text=None, **values):
    result = [
        dict(
            id='a1',
            from_name='decision',
            to_name='image',
            type='choices',
            value=dict(choices=[decision]),
        )
    ]
    if text is not None:
        result.append(
            dict(
                id='a2',
                from_name='text',
                to_name='image',
                type='textarea',
                value=dict(text=[text]),
            )
        )
    return dict(
        dict(id=7, completed_by=1, result=result, was_cancelled=False),
        **values,
    )


def test_tasks_have_image_text_and_configuration(queue, tmp_path):
    path = tmp_path / 'tasks.json'
    write_tasks(queue, [4, 1], path)
    first, second = json.loads(path.read_text())
    assert first['data']['image'].startswith('data:image/jpeg;base64,')
    assert first['data']['flags'].startswith('The repair adds "horse".')
    assert second['data']['flags'] == 'no flags'
    ((result,),) = (p['result'] for p in first['predictions'])
    assert result['type'] == 'textarea'
    assert result['value'] == dict(text=[final_text(4)])
    view = xml.etree.ElementTree.parse(config_file(path)).getroot()
    named = {e.get('name'): e.tag for e in view.iter() if e.get('name')}
    assert named[result['from_name']] == 'TextArea'
    assert named[result['to_name']] == 'Image'
    used = {e.get('value', '')[1:] for e in view if e.tag in ('Image', 'Text')}
    assert used <= first['data'].keys()


def test_a_prefix_replaces_embedded_images(queue, tmp_path):
    path = tmp_path / 'tasks.json'
    write_tasks(queue, [1], path, '/data/local-files/?d=')
    (task,) = json.loads(path.read_text())
    image = task['data']['image']
    assert image.startswith('/data/local-files/?d=')
    assert image.endswith('/image1.png')


@pytest.mark.parametrize('prefix', [None, '/data/local-files/?d='])
def test_an_image_that_has_changed_is_omitted(queue, tmp_path, prefix):
    Image.new('RGB', (64, 48)).save(tmp_path / 'image3.png')
    (tmp_path / 'image1.png').unlink()
    path = tmp_path / 'tasks.json'
    problems = write_tasks(queue, [3, 1, 2], path, prefix)
    assert [p.kind for p in problems] == ['changed', 'missing']
    changed, missing, right = (
        task['data'] for task in json.loads(path.read_text())
    )
    assert changed['image'] == missing['image'] == '' != right['image']
    assert changed['flags'].splitlines() == [
        'This image cannot be displayed: the file has changed since it was '
        'added.',
        'The text is short.',
    ]


def test_an_export_is_read_back(queue, tmp_path):
    path = tmp_path / 'tasks.json'
    write_tasks(queue, [1, 2, 3, 4, 5, 6], path)
    tasks = json.loads(path.read_text())
    for task, annotations in zip(
        tasks,
        (
            [annotation('accept', final_text(1))],
            [annotation('accept', 'Another text.', completed_by=2)],
            [
                annotation('reject', completed_by=dict(id=3, email='a@b.org')),
                annotation('edit', 'New.', completed_by=4),
            ],
            [annotation('accept', was_cancelled=True)],
            [],
            [annotation('accept', result=[])],
        ),
    ):
        task['annotations'] = annotations
    path.write_text(json.dumps([*tasks, dict(data={}, annotations=[])]))
    report = import_decisions(queue, read_annotations(path))
    assert {
        (r.image, r.reviewer): (r.decision, r.text)
        for r in queue.ledger.reviews.latest()
    } == {
        (1, 'label-studio-1'): ('accept', final_text(1)),
        (2, 'label-studio-2'): ('edit', 'Another text.'),
        (3, 'a@b.org'): ('reject', ''),
        (3, 'label-studio-4'): ('edit', 'New.'),
    }
    assert report.undecided == 2
    assert [error.partition(':')[0] for error in report.errors] == [
        'task 6',
        'task 7',
    ]
    assert 'the decision is null' in report.errors[0]
    assert '"image_digest"' in report.errors[1]


def test_a_rejected_text_has_no_new_text(queue, tmp_path):
    path = tmp_path / 'tasks.json'
    write_tasks(queue, [1, 2], path)
    first, second = tasks = json.loads(path.read_text())
    first['annotations'] = [annotation('reject', 'Another text.')]
    second['annotations'] = [annotation('reject', final_text(2))]
    path.write_text(json.dumps(tasks))
    report = import_decisions(queue, read_annotations(path))
    assert report.errors == [
        'task 1: the decision is reject, but there is a new text; write edit '
        'as the decision, or clear the new text.'
    ]
    assert report.stored == 1


@pytest.mark.parametrize(
    'content, message',
    [
        ('{', 'is not JSON'),
        ('', 'is not JSON .it is empty.*; export the project from'),
        ('PK\x03\x04', 'a ZIP archive; unpack it with unzip'),
        ('[{"id": 1, "id": 2}]', 'has the key "id" twice'),
        ('{}', 'is not a list of tasks'),
        ('[{"image": "x", "decision": "accept"}]', 'not as JSON-MIN'),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / 'export.json'
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_annotations(path)
