# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The rendered data set, its metric, and the gallery's pieces."""

import json
import tarfile

import pytest

from minigpt4.nano.metric import NanoMetric
from minigpt4.nano.world import COLORS, Scene
from minigpt4.nano.write_dataset import save_demo, write_dataset


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('nano')
    write_dataset(
        folder, pairs=25, per_shard=10, descriptions=4, test_scenes=6
    )
    return folder


def test_shards_are_those_of_img2dataset(data):
    shards = sorted(data.glob('stage1/*/*.tar'))
    assert len(shards) == 3
    number = 0
    for shard in shards:
        with tarfile.open(shard) as tar:
            names = tar.getnames()
            number += len(names) // 3
            assert {n.split('.')[1] for n in names} == {'jpg', 'json', 'txt'}
            info = json.load(tar.extractfile(names[1]))
            assert info['caption'] and info['status'] == 'success'
    assert number == 25


def test_stage2_is_cc_sbu_align(data):
    items = json.loads((data / 'stage2/filter_cap.json').read_text())
    assert len(items['annotations']) == 4
    for item in items['annotations']:
        assert item['caption'].startswith('The image shows')
        assert (data / 'stage2/image' / f'{item["image_id"]}.jpg').is_file()


def test_other_texts_about_the_images_of_stage_2(data):
    captions = json.loads((data / 'stage2/filter_cap.json').read_text())
    narratives = json.loads((data / 'stage2/narratives.json').read_text())
    ids = [item['image_id'] for item in captions['annotations']]
    assert [n['image_id'] for n in narratives['annotations']] == ids
    questions = json.loads((data / 'stage2/questions.json').read_text())
    assert {item['image'] for item in questions} == {f'{i}.jpg' for i in ids}
    counts = [
        item['answer'] for item in questions if item['id'].endswith('count')
    ]
    for answer, item in zip(counts, captions['annotations'], strict=True):
        number = answer.split()[2]
        assert f'shows {number} shape' in item['caption']


def test_test_set_is_held_out(data):
    items = json.loads((data / 'test/test.json').read_text())
    assert {item['image'] for item in items} == {f'{i}.jpg' for i in range(6)}
    scenes = {item['image']: Scene.from_dict(item['scene']) for item in items}
    assert all(scene.held_out for scene in scenes.values())
    assert len(set(scenes.values())) == 6  # no scene occurs twice


def test_rendering_is_a_function_of_the_seed(tmp_path, data):
    write_dataset(
        tmp_path, pairs=25, per_shard=10, descriptions=4, test_scenes=6
    )
    for name in (
        'stage2/image/3.jpg',
        'stage2/filter_cap.json',
        'test/test.json',
        'stage1/a/00000.tar',
    ):
        assert (data / name).read_bytes() == (tmp_path / name).read_bytes()


def test_metric_scores(data):
    items = json.loads((data / 'test/test.json').read_text())
    metric = NanoMetric()
    right = [
        dict(item, pred_caption=item['answer'], finished=True)
        for item in items
    ]
    metric.process(None, right)
    scores = metric.evaluate(len(right))
    assert scores['nano/recall'] == scores['nano/describe_exact'] == 1
    assert scores['nano/poem'] == scores['nano/place'] == 1
    assert scores['nano/chair_i'] == scores['nano/poem_failures'] == 0
    assert scores['nano/poem_irrelevant'] == 0

    invented = 'The image shows one shape on a white background. '
    invented += 'In the top left there is a tiny mauve blob. '
    wrong = []
    for item in items:
        shown = {thing['color'] for thing in item['scene']['things']}
        other = next(color for color in COLORS if color not in shown)
        text = f'{invented}In the top right there is a small {other} circle.'
        wrong.append(dict(item, pred_caption=text, finished=False))
    metric.process(None, wrong)
    scores = metric.evaluate(len(wrong))
    assert scores['nano/recall'] == 0
    assert scores['nano/chair_i'] == 1
    assert scores['nano/describe_failures'] == 1
    assert scores['nano/describe_irrelevant'] == 1


def test_a_shape_that_is_named_twice_is_invented_once(data):
    items = json.loads((data / 'test/test.json').read_text())
    item = next(item for item in items if item['task'] == 'describe')
    text = f'{item["answer"]} {item["answer"]}'
    metric = NanoMetric()
    metric.process(None, [dict(item, pred_caption=text, finished=True)])
    scores = metric.evaluate(1)
    assert (scores['nano/recall'], scores['nano/chair_i']) == (1, 0.5)


def test_scores_without_anything_that_they_count_are_absent(data):
    items = json.loads((data / 'test/test.json').read_text())
    metric = NanoMetric()
    counts = [
        dict(item, pred_caption='', finished=True)
        for item in items
        if item['task'] == 'count'
    ]
    metric.process(None, counts)
    assert set(metric.evaluate(len(counts))) == {'nano/count'}
    item = next(item for item in items if item['task'] == 'describe')
    metric.process(None, [dict(item, pred_caption='A sky.', finished=True)])
    scores = metric.evaluate(1)
    assert scores['nano/recall'] == 0 and scores['nano/describe_words'] == 2
    assert 'nano/chair_i' not in scores  # no shape is named


def test_metric_refuses_nothing():
    with pytest.raises(ValueError, match='no answer was scored'):
        NanoMetric().compute_metrics([])


def test_demo_image(tmp_path):
    save_demo(tmp_path / 'scene.png')
    assert (tmp_path / 'scene.png').stat().st_size > 500
