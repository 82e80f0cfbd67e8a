# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 compare``: what is printed and written."""

import json
import re

import pytest
from PIL import Image

from minigpt4.evaluation import compare_page
from minigpt4_cli import main as cli


def run(*options) -> int:
    return cli.main(['compare', *map(str, options)])


@pytest.fixture
def folders(pope_folder):
    """Two folders: the second is wrong in seven of eight answers."""
    rows = [
        (i, f'im{i % 4}', f'Is there <b>{i}</b>?', 'yes', 'yes')
        for i in range(8)
    ]
    other = [(*row[:4], 'No & no.' if row[0] else 'Yes') for row in rows]
    return (
        pope_folder('1', rows, generation=dict(num_beams=1)),
        pope_folder('2', other, generation=dict(num_beams=5)),
    )


def test_the_comparison_is_printed(folders, capsys):
    assert run(*folders, '--resamples', 200) == 0
    out = capsys.readouterr().out
    assert re.search(r'generation\.num_beams +1 +5', out)
    assert re.search(r'accuracy +100\.00 % +12\.50 % +-87\.50', out)
    # 4 images, of which 2 of 16 ways to swap give this difference
    assert re.search(r'-87\.50 +-100\.00 to -62\.50 +0\.1250', out)
    assert 'right: 1 in both, 7 only in 1, 0 only in 2, 0 in neither' in out
    assert 'McNemar p 0.0156' in out  # 2 / 2**7
    assert '7 answers of which' in out and '2 more' in out
    assert '2: No & no. (wrong)' in out


def test_two_runs_print_the_same(folders, capsys):
    run(*folders)
    first = capsys.readouterr().out
    run(*folders)
    assert capsys.readouterr().out == first


def test_the_page_and_the_json(folders, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compare_page, 'MOST', 3)
    images = tmp_path / 'images' / 'part'
    images.mkdir(parents=True)
    Image.new('RGB', (300, 200), 'red').save(images / 'im1.png')
    page, data = tmp_path / 'page.html', tmp_path / 'data.json'
    options = (*folders, '-o', page, '--json', data, '--images', images.parent)
    assert run(*options) == 0
    html = page.read_text()
    assert '&lt;b&gt;1&lt;/b&gt;' in html and '<b>1</b>' not in html
    assert 'No &amp; no.' in html
    assert html.count('<section>') == 3
    assert '7 answers of which' in html and '4 more are not shown' in html
    # im1 has an image file, im2 and im3 have none
    assert html.count('data:image/jpeg') == 1
    assert html.count('no image') == 2
    assert 'http' not in html.replace('http-equiv', '')
    found = json.loads(data.read_text())
    assert len(found['differing']) == 7
    assert found['differing'][0] == dict(id='1', image='im1', distance=1)
    assert found['scores']['accuracy']['difference'] == -0.875
    assert run(*options) == 0  # replaces its own files


def test_files_of_others_are_not_replaced(folders, tmp_path, capsys):
    other = tmp_path / 'other'
    other.write_text('{}')
    assert run(*folders, '-o', other) == 1
    assert 'is not a page of "minigpt4 compare"' in capsys.readouterr().err
    assert run(*folders, '--json', other) == 1
    assert 'is not a comparison' in capsys.readouterr().err
    assert other.read_text() == '{}'


def test_equal_results(folders, pope_folder, capsys):
    rows = [(1, 'a', 'Is it?', 'yes', 'yes')]
    equal = pope_folder('3', rows), pope_folder('4', rows)
    assert run(*equal) == 0
    out = capsys.readouterr().out
    assert 'all settings are equal' in out
    assert '0 answers of which' in out


def test_losses_and_captions_are_printed(match_folder, chair_folder, capsys):
    first = match_folder('1', [('a', 1, 2), ('b', 1, 2)], seed=0)
    second = match_folder('2', [('a', 2, 1), ('b', 1, 2)], seed=1)
    assert run(first, second) == 0
    out = capsys.readouterr().out
    assert '1 captions whose preferred image differs' in out
    assert '2: loss 2.000, with x 1.000 (difference -1.000)' in out
    third = chair_folder('3', [(1, 'A dog.')], {'1': ['cat']})
    fourth = chair_folder('4', [(1, 'A wall.')], {'1': ['cat']})
    capsys.readouterr()
    assert run(third, fourth) == 0
    out = capsys.readouterr().out
    assert '1: A dog. (invented: dog (1))' in out
    assert re.search(r'CHAIR_i.* 100\.00 % +not defined +not defined', out)


def test_wrong_folders_end_with_one_sentence(folders, tmp_path, capsys):
    assert run(folders[0], folders[0]) == 1
    assert run(folders[0], tmp_path / 'none') == 1
    assert run(folders[0], tmp_path) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and all(x.startswith('error: ') for x in lines)
    with pytest.raises(SystemExit):
        run(*folders, '--images', tmp_path)
    assert '--images goes with -o' in capsys.readouterr().err


@pytest.mark.parametrize('option', ['-o', '--json'])
@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('link', 'link is a symbolic link to nowhere, which does not exist'),
        ('/dev/full', '/dev/full is a device or another special file'),
        ('/dev/full/a', '/dev/full is a file, but a folder is expected'),
        ('/proc/a.html', '/proc/a.html cannot be written: no file can be'),
        ('.', 'is a folder; give the name of a file'),
    ],
)
def test_outputs_are_checked_before_the_folders(
    tmp_path, capsys, option, name, message
):
    (tmp_path / 'link').symlink_to('nowhere')
    assert run('not_read', 'neither', option, tmp_path / name) == 1
    assert message in capsys.readouterr().err


def test_captions_with_ids_of_other_forms_are_compared(tmp_path, capsys):
    """The ids of both are found in one truth: 1 of 2 captions differs."""
    truth = tmp_path / 'truth.json'
    truth.write_text('{"139": ["dog"], "285": ["cat"]}')
    for name, form in (('1', '{}'), ('2', 'COCO_val2014_{:012}.jpg')):
        rows = [
            dict(image_id=form.format(139), caption='A dog.'),
            dict(image_id=form.format(285), caption='A cat.'),
        ]
        if name == '2':
            rows[1]['caption'] = 'A cat and a bear.'
        captions = tmp_path / f'{name}.jsonl'
        captions.write_text('\n'.join(map(json.dumps, rows)))
        words = ['eval', 'chair', '--truth', str(truth), '--captions']
        words += [str(captions), '-o', str(tmp_path / name)]
        assert cli.main(words) == 0
    capsys.readouterr()
    assert run(tmp_path / '1', tmp_path / '2', '--resamples', 50) == 0
    out = capsys.readouterr().out
    assert 'compared: 2 captions about 2 images' in out
    assert '1 captions whose invented objects differ' in out
    assert '285 (truth: cat)' in out
