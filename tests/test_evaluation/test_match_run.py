# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 eval match``: losses, files, resuming, errors."""

import json
import shutil

import pytest
import torch

from minigpt4.evaluation import match_run
from minigpt4_cli import main as cli


def run(folder, *options) -> int:
    arguments = (
        *('eval', 'match', '--annotations', folder / 'captions.json'),
        *('--images', folder / 'images', *options),
    )
    return cli.main([str(argument) for argument in arguments])


def read(folder):
    """Rows by caption id, and the summary, of a result folder."""
    lines = (folder / 'losses.jsonl').read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return rows, json.loads((folder / 'summary.json').read_text())


def test_the_trained_model_prefers_the_right_image(nano_set, loads, capsys):
    assert run(nano_set, '-o', nano_set / 'out') == 0
    rows, summary = read(nano_set / 'out')
    assert summary['captions'] == len(rows) == 21
    assert summary['images'] == 18
    scores = {key: v['value'] for key, v in summary['scores'].items()}
    # the three web captions may be about nothing in the image
    assert scores['preferred'] > 0.8
    assert scores['other_loss'] > scores['loss'] + 0.3
    low, high = summary['scores']['loss']['interval']
    assert low < scores['loss'] < high
    out = capsys.readouterr().out
    assert '21 captions of 18 images' in out
    assert f'{100 * scores["preferred"]:.2f} %' in out
    assert all(row['other_image'] != row['image'] for row in rows)


def test_a_loss_equals_that_of_the_training_forward_pass(
    nano_set, loads, model
):
    from mmengine.structures import BaseDataElement

    from minigpt4.images.read import load_image
    from minigpt4.prompts import Turn

    run(nano_set, '-o', nano_set / 'out')
    rows, _ = read(nano_set / 'out')
    for row in rows[:4]:
        for image, key in (('image', 'loss'), ('other_image', 'other_loss')):
            pixels = load_image(nano_set / 'images' / row[image], 64)
            sample = BaseDataElement(
                images=[pixels], turns=[Turn(model.prompt, row['caption'])]
            )
            batch = model.collator(training=True)([sample])
            data = model.data_preprocessor(batch['pieces'][0])
            with torch.no_grad():
                loss = model.loss(data['images'], data['inputs'])['loss']
            assert row[key] == pytest.approx(float(loss), abs=1e-5)


def test_two_runs_give_the_same_bits_and_one_that_continues_too(
    nano_set, loads
):
    run(nano_set, '-o', nano_set / 'a')
    text = (nano_set / 'a' / 'losses.jsonl').read_text()
    run(nano_set, '-o', nano_set / 'b')
    assert (nano_set / 'b' / 'losses.jsonl').read_text() == text
    lines = text.splitlines(keepends=True)
    first = ''.join(lines[: match_run.CHUNK])
    (nano_set / 'b' / 'losses.jsonl').write_text(first + '{"image": "0')
    run(nano_set, '-o', nano_set / 'b')
    assert read(nano_set / 'b') == read(nano_set / 'a')
    n_loads = len(loads)
    run(nano_set, '-o', nano_set / 'b')
    assert len(loads) == n_loads  # nothing is left to measure


def test_the_order_of_the_file_does_not_matter(nano_set, loads):
    run(nano_set, '-o', nano_set / 'a')
    file = nano_set / 'captions.json'
    data = json.loads(file.read_text())
    data['images'].reverse()
    data['annotations'].reverse()
    file.write_text(json.dumps(data))
    run(nano_set, '-o', nano_set / 'b')
    pairs = [
        {row['image']: row['other_image'] for row in read(nano_set / name)[0]}
        for name in 'ab'
    ]
    assert pairs[0] == pairs[1]


def test_what_cannot_be_used_is_skipped_and_counted(nano_set, loads, capsys):
    (nano_set / 'images' / '004.png').write_bytes(b'no image')
    (nano_set / 'images' / '005.png').unlink()
    file = nano_set / 'captions.json'
    data = json.loads(file.read_text())
    data['images'].append(dict(id=50, file_name='050.png'))
    data['annotations'].append(dict(id=1, image_id=999, caption='a'))
    data['annotations'].append(dict(id=2, image_id=3, caption='a ' * 4000))
    file.write_text(json.dumps(data))
    assert run(nano_set, '-o', nano_set / 'out') == 0
    _, summary = read(nano_set / 'out')
    assert summary['images'] == 16
    assert summary['skipped'] == 3
    assert summary['invalid_records'] == 1
    assert summary['images_without_caption'] == 1
    errors = capsys.readouterr().err
    assert '004.png: ' in errors
    assert '005.png' in errors and 'does not exist' in errors
    assert 'fit into the context of the LLM' in errors
    assert '999' in errors
    assert 'image without a caption: 050.png' in errors


def test_stage_1_form_and_cleaned_captions(nano_set, loads):
    run(nano_set, '-o', nano_set / 'own')
    options = ('--template', 'bare', '--clean', '--limit', '4')
    run(nano_set, '-o', nano_set / 'bare', *options)
    own, bare = read(nano_set / 'own')[0], read(nano_set / 'bare')[0]
    assert {row['image'] for row in bare} == {f'00{i}.png' for i in range(4)}
    by_id = {row['id']: row for row in own}
    for row in bare:
        assert '.' not in row['caption']
        assert row['caption'] == row['caption'].lower()
        assert row['loss'] != by_id[row['id']]['loss']


def test_results_of_other_settings_are_not_mixed(nano_set, loads, capsys):
    run(nano_set, '-o', nano_set / 'out')
    before = (nano_set / 'out' / 'losses.jsonl').read_text()
    assert run(nano_set, '-o', nano_set / 'out', '--seed', '1') == 1
    assert 'seed 0 instead of 1' in capsys.readouterr().err
    assert (nano_set / 'out' / 'losses.jsonl').read_text() == before
    options = ('-o', nano_set / 'out', '--seed', '1', '--overwrite')
    assert run(nano_set, *options) == 0
    assert (nano_set / 'out' / 'losses.jsonl').read_text() != before


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            lambda folder: shutil.rmtree(folder / 'images'),
            'images does not exist; give the folder of the images',
        ),
        (
            lambda folder: (folder / 'captions.json').write_text(
                '{"images": [], "annotations": []}'
            ),
            'has no records',
        ),
        (
            lambda folder: (folder / 'captions.json').write_text(
                '[{"image_id": "7", "caption": "a"},'
                ' {"image_id": "8", "caption": "a"}]'
            ),
            'has none of the 2 images of',
        ),
        (
            lambda folder: (folder / 'captions.json').write_text(
                '[{"image_id": "001", "caption": "a"}]'
            ),
            'captions of one image only',
        ),
        (
            lambda folder: [
                (folder / 'images' / f'{i:03d}.png').write_bytes(b'x')
                for i in range(1, 18)
            ],
            'only 000.png can be read; expected at least two. The first of '
            'the others: ',
        ),
        (
            lambda folder: (folder / 'captions.json').unlink(),
            'captions.json does not exist',
        ),
    ],
    ids=['folder', 'empty', 'other images', 'one image', 'broken', 'file'],
)
def test_bad_input_ends_with_one_sentence(
    nano_set, loads, capsys, change, message
):
    change(nano_set)
    assert run(nano_set) == 1
    errors = capsys.readouterr().err.strip().splitlines()
    assert message in errors[-1]
    assert errors[-1].startswith('error: ')
