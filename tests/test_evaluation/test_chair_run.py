# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 eval chair``: given and generated captions, files, errors."""

import json

import pytest

from minigpt4_cli import main as cli


@pytest.fixture
def truth(tmp_path):
    path = tmp_path / 'truth.json'
    path.write_text('{"1": ["dog", "person"], "2": ["cat"]}')
    return path


def run(*options) -> int:
    return cli.main(['eval', 'chair', *map(str, options)])


def test_given_captions_are_scored(tmp_path, truth, capsys):
    captions = tmp_path / 'captions.jsonl'
    captions.write_text(
        '{"image_id": 1, "caption": "A dog and a cat."}\n\n'
        '{"image_id": "2", "caption": "A cat."}\n'
        '{"image_id": 9, "caption": "A cat."}\n'
    )
    options = ('--captions', captions, '--truth', truth)
    assert run(*options, '-o', tmp_path / 'out') == 0
    printed = capsys.readouterr()
    assert 'CHAIR_i, invented mentions  33.33 %' in printed.out
    assert 'CHAIR_s, captions with one  50.00 %' in printed.out
    assert 'most invented: cat (1)' in printed.out
    assert '1 captions of images that' in printed.err
    summary = json.loads((tmp_path / 'out' / 'summary.json').read_text())
    assert summary['protocol'] == 'chair'
    assert summary['scores']['recall']['value'] == 0.75
    assert run(*options, '-o', tmp_path / 'out') == 0
    rows = (tmp_path / 'out' / 'captions.jsonl').read_text().splitlines()
    assert len(rows) == 3


def test_captions_are_generated_and_kept(nano_set, loads, capsys):
    truth = nano_set / 'truth.json'
    truth.write_text(json.dumps({f'{i:03d}': ['dog'] for i in range(5)}))
    (nano_set / 'images' / '002.png').write_bytes(b'no image')
    options = (
        *('--images', nano_set / 'images', '--truth', truth),
        *('-o', nano_set / 'out', '--max-new-tokens', 60),
    )
    assert run(*options) == 1  # an image cannot be read
    assert '002.png' in capsys.readouterr().err
    file = nano_set / 'out' / 'captions.jsonl'
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert {row['image_id'] for row in rows} == {f'00{i}' for i in range(5)}
    described = [row for row in rows if 'error' not in row]
    assert len(described) == 4
    assert all(
        row['caption'].startswith('The image') and row['finished']
        for row in described
    )
    summary = json.loads((nano_set / 'out' / 'summary.json').read_text())
    assert summary['scores']['finished']['value'] == 1
    assert summary['settings']['prompt'] == 'Describe this image in detail.'
    # a run that was interrupted continues
    file.write_text(file.read_text().splitlines(keepends=True)[0])
    assert run(*options) == 1
    again = [json.loads(line) for line in file.read_text().splitlines()]
    by_file = lambda row: row['file']  # noqa: E731
    assert sorted(again, key=by_file) == sorted(rows, key=by_file)
    assert len(loads) == 2


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('[]', 'is no object of image ids'),
        ('{', 'is not JSON'),
        ('{"1": "dog"}', 'image 1 has no list of classes'),
        ('{"1": ["dgo"]}', "the class 'dgo', which is none of the 80"),
    ],
)
def test_a_wrong_truth_ends_with_one_sentence(
    tmp_path, truth, capsys, content, message
):
    truth.write_text(content)
    captions = tmp_path / 'captions.jsonl'
    captions.write_text('{"image_id": 1, "caption": "a"}')
    assert run('--captions', captions, '--truth', truth) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('', 'is empty; expected one caption a line'),
        ('{"image_id": 1}', 'line 1 is no caption'),
        ('{"image_id": 1, "caption": "a"}\nx', 'line 2 is not JSON'),
        ('{"image_id": 7, "caption": "a"}', 'none of the 1 captions'),
    ],
)
def test_wrong_captions_end_with_one_sentence(
    tmp_path, truth, capsys, content, message
):
    captions = tmp_path / 'captions.jsonl'
    captions.write_text(content)
    assert run('--captions', captions, '--truth', truth) == 1
    assert message in capsys.readouterr().err


def test_ids_may_be_absolute_paths_of_files_in_subfolders(nano_set, loads):
    """Files of one name in two folders are two images."""
    images = nano_set / 'images'
    paths = []
    for name in ('a', 'b'):
        (images / name).mkdir()
        paths.append(images / name / '001.png')
        paths[-1].write_bytes((images / '001.png').read_bytes())
    truth = nano_set / 'truth.json'
    truth.write_text(json.dumps({str(path): ['dog'] for path in paths}))
    options = (
        *('--images', images, '--truth', truth, '-o', nano_set / 'out'),
        *('--max-new-tokens', 9),
    )
    assert run(*options) == 0
    assert run(*options) == 0  # nothing is left to do
    lines = (nano_set / 'out' / 'captions.jsonl').read_text().splitlines()
    ids = [json.loads(line)['image_id'] for line in lines]
    assert ids == [str(path) for path in paths]


def test_two_images_of_one_id_are_refused(nano_set, capsys):
    images = nano_set / 'images'
    (images / 'a').mkdir()
    (images / 'a' / '001.png').write_bytes((images / '001.png').read_bytes())
    truth = nano_set / 'truth.json'
    truth.write_text('{"001": ["dog"]}')
    assert run('--images', images, '--truth', truth) == 1
    err = capsys.readouterr().err
    assert '001.png both have the id 001 of' in err
    assert 'or absolute paths as ids' in err


def test_images_of_another_truth_are_refused(nano_set, truth, capsys):
    (nano_set / 'images' / '001.png').unlink()
    (nano_set / 'images' / '002.png').unlink()
    assert run('--images', nano_set / 'images', '--truth', truth) == 1
    assert 'none of the 16 images' in capsys.readouterr().err


def test_captions_and_images_exclude_each_other(truth, capsys):
    with pytest.raises(SystemExit):
        run('--truth', truth)
    assert 'either --captions' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('option', 'name'),
    [
        (['--limit', 1], '--limit'),
        (['--prompt', 'a'], '--prompt'),
        (['--num-beams', 3], '--num-beams'),
    ],
)
def test_options_of_generation_are_refused_with_captions(
    tmp_path, truth, capsys, option, name
):
    captions = tmp_path / 'captions.jsonl'
    captions.write_text('{"image_id": 1, "caption": "a"}')
    with pytest.raises(SystemExit) as error:
        run('--captions', captions, '--truth', truth, *option)
    assert error.value.code == 2
    assert f'{name} goes with --images' in capsys.readouterr().err
