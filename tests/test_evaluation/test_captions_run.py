# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 eval captions``: given and generated captions, files, errors."""

import json

import pytest

from minigpt4_cli import main as cli


@pytest.fixture
def annotations(tmp_path):
    """COCO's layout: two captions of images 1 to 3, none of image 4."""
    path = tmp_path / 'captions_val.json'
    texts = {1: 'a dog runs fast', 2: 'two cats sleep here', 3: 'a red bus'}
    path.write_text(
        json.dumps(
            dict(
                images=[
                    dict(id=i, file_name=f'{i:012d}.jpg') for i in range(1, 5)
                ],
                annotations=[
                    dict(id=10 * i + n, image_id=i, caption=text)
                    for i, text in texts.items()
                    for n in range(2)
                ],
            )
        )
    )
    return path


def run(*options) -> int:
    return cli.main(['eval', 'captions', *map(str, options)])


def write(tmp_path, rows):
    path = tmp_path / 'results.json'
    path.write_text(json.dumps(rows))
    return path


def test_given_captions_are_scored(tmp_path, annotations, capsys):
    captions = write(
        tmp_path,
        [
            dict(image_id=1, caption='A dog runs fast.'),
            dict(image_id='000000000002', caption='Two cats sleep here.'),
            dict(image_id=9, caption='A house.'),
        ],
    )
    options = ('--captions', captions, '--annotations', annotations)
    assert run(*options, '-o', tmp_path / 'out') == 0
    printed = capsys.readouterr()
    assert '2 captions, 4 references, 4.0 words a caption' in printed.out
    assert 'BLEU-4   1.000 (1.000 to 1.000)' in printed.out
    assert 'CIDEr    10.000 (10.000 to 10.000)' in printed.out
    assert 'skipped: 1 caption of images that' in printed.err
    assert '(such as "9"; it has ids such as "1")' in printed.err
    assert 'not scored: 1 image of' in printed.err
    summary = json.loads((tmp_path / 'out' / 'summary.json').read_text())
    assert summary['protocol'] == 'captions'
    assert summary['scores']['rouge_l']['value'] == 1
    assert summary['without_references'] == summary['without_caption'] == 1
    assert run(*options, '-o', tmp_path / 'out') == 0
    rows = (tmp_path / 'out' / 'captions.jsonl').read_text().splitlines()
    assert len(rows) == 3


@pytest.mark.parametrize('kind', [int, float, str])
def test_ids_are_numbers_floats_or_texts(tmp_path, annotations, capsys, kind):
    content = json.loads(annotations.read_text())
    for other in (int, float, str):
        for image in content['images']:
            image['id'] = other(int(image['id']))
        annotations.write_text(json.dumps(content))
        captions = write(
            tmp_path, [dict(image_id=kind(1), caption='A dog runs fast.')]
        )
        files = ('--captions', captions, '--annotations', annotations)
        assert run(*files) == 0
        printed = capsys.readouterr()
        assert '1 captions, 2 references' in printed.out
        assert 'skipped' not in printed.err
    # one image in two forms has two captions
    captions = write(
        tmp_path, [dict(image_id=i, caption='a') for i in (1.0, '1')]
    )
    assert run('--captions', captions, '--annotations', annotations) == 1
    assert 'has two captions of image 1' in capsys.readouterr().err


def test_other_references_are_another_setting(tmp_path, annotations, capsys):
    captions = write(tmp_path, [dict(image_id=1, caption='a')])
    options = ('--captions', captions, '--annotations', annotations)
    assert run(*options, '-o', tmp_path / 'out') == 0
    annotations.write_text(annotations.read_text().replace('fast', 'slowly'))
    assert run(*options, '-o', tmp_path / 'out') == 1
    assert 'results of other settings (references' in capsys.readouterr().err
    assert run(*options, '-o', tmp_path / 'out', '--overwrite') == 0


def test_captions_are_generated_and_kept(nano_set, loads, capsys):
    (nano_set / 'images' / '002.png').write_bytes(b'no image')
    options = (
        *('--images', nano_set / 'images', '--limit', 4),
        *('--annotations', nano_set / 'captions.json'),
        *('-o', nano_set / 'out', '--max-new-tokens', 60),
    )
    assert run(*options) == 1  # an image cannot be read
    printed = capsys.readouterr()
    assert 'failed: 002.png' in printed.err
    assert '3 captions, 5 references' in printed.out
    file = nano_set / 'out' / 'captions.jsonl'
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert {row['image_id'] for row in rows} == {'0', '1', '2', '3'}
    summary = json.loads((nano_set / 'out' / 'summary.json').read_text())
    # the nano model describes these scenes nearly word for word
    assert summary['scores']['bleu_4']['value'] > 0.7
    assert [row['file'] for row in summary['errors']] == ['002.png']
    # a run that was interrupted continues
    file.write_text(file.read_text().splitlines(keepends=True)[0])
    assert run(*options) == 1
    again = [json.loads(line) for line in file.read_text().splitlines()]
    by_file = lambda row: row['file']  # noqa: E731
    assert sorted(again, key=by_file) == sorted(rows, key=by_file)
    assert len(loads) == 2
    # its captions can be scored as those of a file
    assert run('--captions', file, *options[4:6]) == 1
    assert '3 captions, 5 references' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('rows', 'message'),
    [
        (
            [
                dict(image_id=1, caption='a'),
                dict(image_id='1', caption='b'),
            ],
            'has two captions of image 1 ("a" and "b"); expected one',
        ),
        ([dict(image_id=9, caption='a')], 'references of none of the 1'),
        ([dict(image_id=4, caption='a')], 'references of none of the 1'),
        ([dict(image_id=1, error='damaged')], 'references of none of the 0'),
        ([dict(image_id=1)], 'caption 1 is no caption'),
    ],
)
def test_wrong_captions_end_with_one_sentence(
    tmp_path, annotations, capsys, rows, message
):
    captions = write(tmp_path, rows)
    assert run('--captions', captions, '--annotations', annotations) == 1
    err = capsys.readouterr().err
    assert message in err and 'Traceback' not in err


def test_a_missing_file_of_references_ends_with_one_sentence(tmp_path, capsys):
    captions = write(tmp_path, [dict(image_id=1, caption='a')])
    missing = tmp_path / 'missing.json'
    assert run('--captions', captions, '--annotations', missing) == 1
    assert 'missing.json does not exist' in capsys.readouterr().err


def test_images_of_other_references_are_refused(nano_set, annotations, capsys):
    for number in (1, 2, 3):  # their names are numbers of the annotations
        (nano_set / 'images' / f'{number:03d}.png').unlink()
    options = ('--images', nano_set / 'images', '--annotations', annotations)
    assert run(*options) == 1
    assert 'has none of the 15 images' in capsys.readouterr().err


def test_captions_and_images_exclude_each_other(annotations, capsys):
    with pytest.raises(SystemExit):
        run('--annotations', annotations)
    assert 'either --captions' in capsys.readouterr().err
