# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The truth of CHAIR from hand-written files of COCO."""

import json

import pytest

from minigpt4.evaluation.chair_truth import coco_truth
from minigpt4_cli import main as cli


@pytest.fixture
def files(tmp_path):
    """Three images; the third has no object. Categories are at the end."""
    instances = tmp_path / 'instances_val.json'
    instances.write_text(
        json.dumps(
            dict(
                info=dict(year=2014),
                images=[
                    dict(id=i, file_name=f'COCO_val2014_{i:012d}.jpg')
                    for i in (139, 285, 7)
                ],
                annotations=[
                    dict(id=1, image_id=139, category_id=62, iscrowd=0),
                    dict(id=2, image_id=139, category_id=62, iscrowd=0),
                    dict(id=3, image_id=139, category_id=72, iscrowd=1),
                    dict(id=4, image_id=285, category_id=23, iscrowd=0),
                ],
                categories=[
                    dict(id=62, name='chair'),
                    dict(id=72, name='tv'),
                    dict(id=23, name='bear'),
                ],
            )
        )
    )
    captions = tmp_path / 'captions_val.json'
    captions.write_text(
        json.dumps(
            dict(
                images=[dict(id=139, file_name='139.jpg')],
                annotations=[
                    dict(id=1, image_id=139, caption='Two women and a TV.'),
                    dict(id=2, image_id=139, caption='A hot dog on a desk.'),
                    dict(id=3, image_id=7, caption='Toilet seats.'),
                    dict(id=4, image_id=99, caption='A zebra.'),
                ],
            )
        )
    )
    return instances, captions


def test_instances_are_united_with_captions(files):
    instances, captions = files
    assert coco_truth([instances]) == {
        '139': ['chair', 'tv'],
        '285': ['bear'],
        '7': [],
    }
    assert coco_truth([instances], [captions]) == {
        '139': ['chair', 'dining table', 'hot dog', 'person', 'tv'],
        '285': ['bear'],
        '7': ['toilet'],
    }


def test_files_of_several_splits_are_joined(files, tmp_path):
    other = tmp_path / 'instances_train.json'
    content = json.loads(files[0].read_text())
    content['images'] = [dict(id=8)]
    content['annotations'] = [dict(image_id='8', category_id=72)]
    other.write_text(json.dumps(content))
    found = coco_truth([files[0], other])
    assert found['8'] == ['tv'] and len(found) == 4


def test_pycocotools_reads_the_same_classes(files):
    coco = pytest.importorskip('pycocotools.coco').COCO(files[0])
    expected = {
        str(image): sorted(
            {
                coco.cats[annotation['category_id']]['name']
                for annotation in coco.imgToAnns[image]
            }
        )
        for image in coco.getImgIds()
    }
    assert coco_truth([files[0]]) == expected


def test_ids_are_numbers_floats_or_texts(files):
    instances, captions = files
    expected = coco_truth([instances], [captions])
    tables = json.loads(instances.read_text())
    for image in tables['images']:
        image['id'] = float(image['id'])
    for annotation in tables['annotations']:
        annotation['image_id'] = str(annotation['image_id'])
        annotation['category_id'] = float(annotation['category_id'])
    for category in tables['categories']:
        category['id'] = str(category['id'])
    instances.write_text(json.dumps(tables))
    assert coco_truth([instances], [captions]) == expected


def change(path, **tables):
    path.write_text(json.dumps(json.loads(path.read_text()) | tables))


@pytest.mark.parametrize(
    ('tables', 'message'),
    [
        (dict(categories=[dict(id=1, name='unicorn')]), 'none of the 80'),
        (dict(categories=[]), 'has no categories; expected instances_'),
        (dict(images=[], annotations=[]), 'has no images; expected'),
        (dict(annotations=[]), 'has no object in any of its 3 images'),
        (dict(annotations=[7]), 'record 1 of annotations is no object'),
        (dict(annotations=[dict(category_id=62)]), 'has the image_id null'),
        (dict(annotations=[dict(image_id=1)]), '1 has no category_id'),
        (
            dict(annotations=[dict(image_id=139, category_id=5)]),
            'image 139 has the category_id 5, which the table categories',
        ),
    ],
)
def test_wrong_instances_are_refused(files, tables, message):
    change(files[0], **tables)
    with pytest.raises(ValueError, match=message) as error:
        coco_truth([files[0]])
    assert 'instances_val.json' in str(error.value)


def test_a_key_that_occurs_twice_is_named(files):
    instances = files[0]
    text = instances.read_text()
    instances.write_text(
        text.replace('"image_id": 285', '"image_id": 7, "image_id": 285')
    )
    with pytest.raises(
        ValueError, match='4 of annotations has the key "image'
    ):
        coco_truth([instances])
    instances.write_text(
        text.replace('"info"', '"images": [{"id": 1}], "info"')
    )
    with pytest.raises(ValueError, match='has the table images twice'):
        coco_truth([instances])


def test_each_file_needs_objects(files, tmp_path):
    """A file of images without annotations, such as that of a test split."""
    other = tmp_path / 'image_info_test.json'
    other.write_text(files[0].read_text())
    change(other, images=[dict(id=8)], annotations=[])
    with pytest.raises(ValueError, match='image_info_test.* has no object'):
        coco_truth([files[0], other], [files[1]])


def test_wrong_captions_are_refused(files):
    instances, captions = files
    with pytest.raises(ValueError, match='1 has no caption'):
        coco_truth([instances], [instances])
    change(captions, annotations=[dict(image_id=99, caption='A zebra.')])
    with pytest.raises(ValueError, match='no caption of an image of'):
        coco_truth([instances], [captions])
    captions.write_text(captions.read_text()[:-20])
    with pytest.raises(ValueError, match='the file ends too early'):
        coco_truth([instances], [captions])


def test_captions_are_scored_with_the_files(files, tmp_path, capsys):
    instances, captions = files
    scored = tmp_path / 'captions.jsonl'
    scored.write_text('{"image_id": 139, "caption": "A woman and a cat."}')
    options = ['eval', 'chair', '--captions', str(scored), '--variants']
    options += ['--instances', str(instances)]
    out = tmp_path / 'out'
    both = [*options, '--captions-truth', str(captions), '-o', str(out)]
    assert cli.main(both) == 0
    assert 'CHAIR_i, invented mentions  50.00 %' in capsys.readouterr().out
    summary = json.loads((out / 'summary.json').read_text())
    assert summary['variants'][-1]['name'] == 'truth: instances only'
    assert summary['variants'][-1]['chair_i'] == 1
    settings = json.loads((out / 'settings.json').read_text())
    assert len(settings['truth']['captions'][0]) == 16
    assert cli.main(options) == 0
    assert 'CHAIR_i, invented mentions  100.00 %' in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main([*options, '--truth', str(instances)])
    assert 'either --truth FILE or --instances' in capsys.readouterr().err
