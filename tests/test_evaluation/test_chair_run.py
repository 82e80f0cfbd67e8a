# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 eval chair``: given and generated captions, files, errors."""

import gzip
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
    assert '1 caption of images that' in printed.err
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
        ('{"1": ["dog"], "1": []}', 'has the key "1" twice; expected it once'),
        ('{"1": [], "2": []}', 'has no object in any of its 2 images'),
        ('{"1": ["dog"], "2": NaN}', 'NaN is no number of JSON'),
        ('', 'is not JSON (it is empty); expected an object of image ids'),
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
        (
            '{"image_id": true, "caption": "a"}',
            'the image_id of line 1 is true; expected a text or a whole',
        ),
        ('{"image_id": 1e999, "caption": "a"}', 'line 1 is not JSON'),
        (
            '{"image_id": 1, "image_id": 2, "caption": "a"}',
            'line 1 has the key "image_id" twice',
        ),
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


CAPTIONS = (
    '{"image_id": "000000000139.jpg", "caption": "A dog and a cat."}\n'
    '{"image_id": "COCO_val2014_000000000285.jpg", "caption": "A cat."}\n'
    '{"image_id": 7, "caption": "A bear."}\n'
)


@pytest.mark.parametrize(
    'ids', [('139', '285', '7'), ('000000000139', '0285', '000000000007')]
)
def test_ids_have_the_forms_of_coco(tmp_path, capsys, ids):
    """A dog is in 139, a cat in 285, nothing in 7: 2 of 4 are invented."""
    captions, truth = tmp_path / 'captions.jsonl', tmp_path / 'truth.json'
    captions.write_text(CAPTIONS)
    classes = (['dog'], ['cat'], [])
    truth.write_text(json.dumps(dict(zip(ids, classes, strict=True))))
    out = tmp_path / 'out'
    options = ('--captions', captions, '--truth', truth, '-o', out)
    assert run(*options, '--variants') == 0
    printed = capsys.readouterr()
    assert '3 captions of 3 images, 4 mentions, 2 invented' in printed.out
    assert 'skipped' not in printed.err
    stored = json.loads((out / 'truth.json').read_text())
    assert stored == dict(zip(ids, classes, strict=True))
    assert cli.main(['eval', '--score', str(out)]) == 0
    assert '4 mentions, 2 invented' in capsys.readouterr().out


def test_ids_that_the_truth_does_not_have_are_named(tmp_path, truth, capsys):
    captions = tmp_path / 'captions.jsonl'
    lines = [f'{{"image_id": "dog_{i}", "caption": "a"}}\n' for i in range(5)]
    captions.write_text(''.join(lines))
    assert run('--captions', captions, '--truth', truth) == 1
    assert (
        'none of the 5 captions is of an image that the truth has (such as '
        '"dog_0", "dog_1", "dog_2"; it has ids such as "1")'
    ) in capsys.readouterr().err
    lines.append('{"image_id": 2, "caption": "a"}\n')
    captions.write_text(''.join(lines))
    out = tmp_path / 'out'
    assert run('--captions', captions, '--truth', truth, '-o', out) == 0
    expected = (
        'does not have (such as "dog_0", "dog_1", "dog_2"; it has ids such as '
        '"2")'
    )
    assert expected in capsys.readouterr().err
    assert cli.main(['eval', '--score', str(out)]) == 0
    assert '"dog_2"; it has ids such as' in capsys.readouterr().err


@pytest.mark.parametrize('option', ['--captions', '--truth', '--instances'])
@pytest.mark.parametrize(
    ('data', 'reason'),
    [
        (b'PK\x03\x04 and more', 'a ZIP archive; unpack it with unzip'),
        (b'\xff\xd8\xff\xe0\x00\x10JFIF', 'it is a JPEG image'),
        (b'\x00{\x00"\x00a\x00"', 'UTF-16 or UTF-32 text; save it as UTF-8'),
        (b'<!DOCTYPE html>', 'it is an HTML or XML page'),
    ],
)
def test_a_file_of_another_kind_is_named(
    tmp_path, truth, capsys, option, data, reason
):
    captions, other = tmp_path / 'captions.jsonl', tmp_path / 'other'
    captions.write_text('{"image_id": 1, "caption": "a"}')
    other.write_bytes(data)
    given = {'--captions': captions, '--truth': truth, option: other}
    if option == '--instances':
        del given['--truth']
    words = [word for pair in given.items() for word in pair]
    assert run(*words) == 1
    error = capsys.readouterr().err
    assert f'{other} ' in error and reason in error


def test_the_captions_may_not_be_compressed(tmp_path, truth, capsys):
    captions = tmp_path / 'captions.jsonl.gz'
    captions.write_bytes(gzip.compress(b'{"image_id": 1, "caption": "a"}'))
    assert run('--captions', captions, '--truth', truth) == 1
    assert 'a gzip archive; unpack it with gunzip' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('link', 'link is a symbolic link to nowhere, which does not exist'),
        ('link/a', 'link is a symbolic link to nowhere, which does not exist'),
        ('truth.json', 'truth.json is a file, but a folder is expected'),
        ('/dev/full', '/dev/full is a file, but a folder is expected'),
        ('/proc/result', '/proc/result cannot be written: no file can be'),
    ],
)
def test_the_output_is_checked_first(tmp_path, truth, capsys, name, message):
    (tmp_path / 'link').symlink_to('nowhere')
    captions = tmp_path / 'not_read.jsonl'  # it does not exist
    out = tmp_path / name
    assert run('--captions', captions, '--truth', truth, '-o', out) == 1
    assert message in capsys.readouterr().err
