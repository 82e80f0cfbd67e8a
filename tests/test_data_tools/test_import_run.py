# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The command ``minigpt4 data import``: outputs, splits, resuming, errors."""

import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import time

import pytest
from PIL import Image

from minigpt4.datasets import InstructionDataset
from minigpt4.datasets.shard_source import Source
from minigpt4_cli import data
from minigpt4_cli.main import main


def import_data(*arguments):
    """Run the command; its exit status."""
    return main(['data', 'import', *map(str, arguments)])


@pytest.fixture
def captions(tmp_path):
    """A file of 30 COCO captions of 10 images, of which some are invalid."""
    rng = random.Random(0)
    (tmp_path / 'images').mkdir()
    for i in range(10):
        image = Image.effect_noise((48, 48), 90 + i).convert('RGB')
        image.paste(rng.randrange(1 << 24), (8, 8, 30 + i, 30))
        image.save(tmp_path / f'images/{i:012d}.jpg')
    path = tmp_path / 'captions_x.json'
    path.write_text(
        json.dumps(
            dict(
                annotations=[
                    dict(id=i, image_id=i % 12, caption=f'thing {i}')
                    for i in range(36)
                ],
                images=[
                    dict(id=i, file_name=f'{i:012d}.jpg') for i in range(11)
                ],
            )
        )
    )
    return path


def records(path):
    return json.loads(path.read_text('utf-8'))


def skipped(out):
    lines = (out / 'skipped.jsonl').read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_captions_become_stage_2(captions, tmp_path, capsys):
    out = tmp_path / 'out'
    assert import_data(captions, '-o', out, '--show', 2) == 0
    found = records(out / 'filter_cap.json')
    assert len(found) == 30
    assert found[0] == dict(
        image=str(tmp_path / 'images/000000000000.jpg'),
        id=0,
        caption='thing 0',
        image_id=0,
    )
    rows = skipped(out)
    assert len(rows) == 6
    # the image 10 is in the table and not on the disk, 11 in neither
    assert rows[0]['record'] == 11 and rows[0]['id'] == 10
    assert '000000000010.jpg' in rows[0]['reason']
    assert rows[1]['reason'].endswith('which the table "images" lacks')
    output = capsys.readouterr()
    assert output.err.count('skipped ') == 2
    assert '4 more are not printed' in output.err
    assert '30 records of the format coco-captions' in output.out
    dataset = InstructionDataset('filter_cap.json', data_root=str(out))
    assert [r['id'] for r in dataset.records] == [r['id'] for r in found]


def test_strict_and_nothing_imported_give_status_1(captions, tmp_path):
    assert import_data(captions, '-o', tmp_path / 'a', '--strict', '-q') == 1
    empty = tmp_path / 'empty'
    empty.mkdir()
    arguments = (captions, '-o', tmp_path / 'b', '--images', empty, '-q')
    assert import_data(*arguments) == 1
    assert not (tmp_path / 'b/filter_cap.json').exists()


def test_an_image_is_in_one_split(captions, tmp_path):
    images = []
    out = tmp_path / 'out'
    options = ('--split', '0.6,0.2,0.2', '--name', 'captions_train')
    assert import_data(captions, '-o', out, *options) == 0
    for split in ('train', 'val', 'test'):
        found = records(out / f'captions_{split}.json')
        images.append({record['image'] for record in found})
    assert [len(names) for names in images] == [6, 2, 2]
    assert len(set.union(*images)) == 10
    assert import_data(captions, '-o', tmp_path / 'again', *options) == 0
    for path in sorted(out.glob('captions_*')):
        assert (tmp_path / 'again' / path.name).read_bytes() == (
            path.read_bytes()
        )


def test_images_in_one_record_are_in_one_split(tmp_path):
    for i in range(8):
        Image.new('RGB', (8, 8), (i, 0, 0)).save(tmp_path / f'{i}.png')
    lines = [
        dict(
            images=[f'{i}.png', f'{(i + 1) % 4 + 4 * (i // 4)}.png'],
            conversations=[
                {'from': 'human', 'value': '<image><image>\nSame?'},
                {'from': 'gpt', 'value': 'No.'},
            ],
        )
        for i in range(8)
        if i % 4 != 3
    ]
    path = tmp_path / 'a.jsonl'
    path.write_text('\n'.join(map(json.dumps, lines)))
    out = tmp_path / 'out'
    assert import_data(path, '-o', out, '--split', '0.5,0.5') == 0
    train = records(out / 'filter_cap.json')
    test = records(out / 'filter_cap_test.json')
    assert len(train) == len(test) == 3
    assert train[0]['question'] == '<image><image> Same?'


def test_limit_counts_valid_records(captions, tmp_path):
    out = tmp_path / 'out'
    assert import_data(captions, '-o', out, '--limit', 12, '-q') == 0
    assert len(records(out / 'filter_cap.json')) == 12


def test_copied_images_can_be_moved(captions, tmp_path):
    out = tmp_path / 'out'
    assert import_data(captions, '-o', out, '--copy', '-q') == 0
    out = out.rename(tmp_path / 'moved')
    dataset = InstructionDataset('filter_cap.json', data_root=str(out))
    files = [path for _, path in dataset.image_sources()]
    assert len(files) == 10
    assert all(path.startswith(str(out)) for path in files)
    assert all(Image.open(path).size == (48, 48) for path in files)


def test_near_duplicates_are_dropped(captions, tmp_path):
    pytest.importorskip('imagehash')
    with Image.open(tmp_path / 'images/000000000003.jpg') as image:
        image.save(tmp_path / 'images/000000000007.jpg', quality=60)
    (tmp_path / 'images/000000000009.jpg').write_bytes(b'no image')
    out = tmp_path / 'out'
    assert import_data(captions, '-o', out, '--dedup', '-q') == 0
    found = {r['image_id'] for r in records(out / 'filter_cap.json')}
    assert found == {0, 1, 2, 3, 4, 5, 6, 8}
    kinds = [row['kind'] for row in skipped(out)]
    assert kinds.count('near duplicate') == 3
    assert kinds.count('image cannot be read') == 3


def shard_samples(folder):
    source = Source('a', str(folder / '*.tar'), 1, seed=0, shuffle=0)
    return [s for shard in source.shards for s in source.samples_of(shard)]


def test_captions_become_shards(captions, tmp_path):
    (tmp_path / 'images/000000000004.jpg').write_bytes(b'no image')
    out = tmp_path / 'out'
    arguments = (captions, '-o', out, '--to', 'stage1', '--shard-size', 8)
    assert import_data(*arguments) == 0
    assert len(list(out.glob('*.tar'))) == 4
    samples = shard_samples(out)
    assert len(samples) == 27
    texts = {json.loads(s['json'])['caption'] for s in samples}
    assert len(texts) == 27 and {s['txt'].decode() for s in samples} == texts
    for sample in samples:
        details = json.loads(sample['json'])
        number = details['image_id']
        file = tmp_path / f'images/{number:012d}.jpg'
        assert sample['jpg'] == file.read_bytes()
    unreadable = [r for r in skipped(out) if 'cannot be read' in r['kind']]
    assert [r['record'] for r in unreadable] != []
    assert len(unreadable) == 3
    assert not (out / '.import').exists()


@pytest.mark.parametrize('name', ['llava', 'questions'])
def test_stage_1_skips_what_is_no_caption(tmp_path, name):
    Image.new('RGB', (8, 8)).save(tmp_path / 'a.png')
    messages = [
        {'from': 'human', 'value': '<image>\nWhat?'},
        {'from': 'gpt', 'value': 'A dog.'},
    ]
    question = '<image>\nProvide a brief description of the given image.'
    described = [{'from': 'human', 'value': question}, messages[1]]
    lines = (
        [
            dict(image='a.png', conversations=messages),
            dict(image='a.png', conversations=described),
            dict(image='a.png', conversations=described * 2),
            dict(
                conversations=messages[:0]
                + [
                    {'from': 'human', 'value': 'Hi'},
                    {'from': 'gpt', 'value': 'Hello'},
                ]
            ),
        ]
        if name == 'llava'
        else [dict(image='a.png', question='What?', answer='dog')]
    )
    path = tmp_path / 'a.json'
    path.write_text(json.dumps(lines))
    out = tmp_path / 'out'
    status = import_data(path, '-o', out, '--to', 'stage1')
    if name == 'questions':
        assert status == 1
        return
    assert [s['txt'] for s in shard_samples(out)] == [b'A dog.']
    assert len(skipped(out)) == 3
    assert "answers the question '" in skipped(out)[0]['reason']


def test_an_image_slot_needs_an_image(tmp_path):
    path = tmp_path / 'a.json'
    messages = [
        {'from': 'human', 'value': '<image>\nWhat?'},
        {'from': 'gpt', 'value': 'A dog.'},
    ]
    path.write_text(json.dumps([dict(id=1, conversations=messages)]))
    assert import_data(path, '-o', tmp_path / 'out') == 1
    (row,) = skipped(tmp_path / 'out')
    assert 'has <image> in a question and no image' in row['reason']


@pytest.mark.parametrize('stage', ['stage1', 'stage2'])
def test_files_that_are_no_images(tmp_path, stage, capsys):
    contents = {
        'a': b'',
        'b': b'<!DOCTYPE html><html>404</html>',
        'c': b'version https://git-lfs.github.com/spec/v1\noid sha256:1\n',
    }
    for name, content in contents.items():
        (tmp_path / f'{name}.jpg').write_bytes(content)
    image = Image.effect_noise((64, 64), 90)
    image.save(tmp_path / 'd.jpg')
    data = (tmp_path / 'd.jpg').read_bytes()
    (tmp_path / 'e.jpg').write_bytes(data[: len(data) // 2])
    rows = [f'{name}.jpg,a {name}' for name in 'abcde']
    (tmp_path / 'a.csv').write_text('\n'.join(['image,caption', *rows]))
    out = tmp_path / 'out'
    assert import_data(tmp_path / 'a.csv', '-o', out, '--to', stage) == 0
    reasons = {row['line']: row['reason'] for row in skipped(out)}
    # stage 2 does not decode images, and says so
    assert sorted(reasons) == [2, 3, 4] + [6] * (stage == 'stage1')
    assert 'an empty file' in reasons[2] and 'an HTML page' in reasons[3]
    assert 'a Git LFS pointer' in reasons[4]
    note = 'the images were not decoded; "minigpt4 data check'
    assert (note in capsys.readouterr().out) == (stage == 'stage2')


def test_a_folder_of_images_that_does_not_exist(captions, tmp_path, capsys):
    arguments = (captions, '-o', tmp_path / 'out', '--images', 'nowhere')
    assert import_data(*arguments) == 1
    error = capsys.readouterr().err
    assert '--images nowhere is no folder' in error
    assert error.count('\n') == 1


@pytest.mark.parametrize('source', ['a', 'a/', './a', 'b/../a', '.', '..'])
@pytest.mark.parametrize('stage', ['stage1', 'stage2'])
def test_relative_sources(tmp_path, monkeypatch, source, stage):
    """The same records as of the absolute path."""
    folder = tmp_path / 'a'
    (folder / 'b').mkdir(parents=True)
    (tmp_path / 'b').mkdir()
    Image.new('RGB', (8, 8)).save(folder / 'a.png')
    (folder / 'a.txt').write_text('a dog')
    start = {'.': folder, '..': folder / 'b'}.get(source, tmp_path)
    monkeypatch.chdir(start)
    out = tmp_path / 'out'
    assert import_data(source, '-o', out, '--to', stage, '-q') == 0
    if stage == 'stage2':
        (record,) = records(out / 'filter_cap.json')
        assert record['image'] == str(folder / 'a.png')


@pytest.mark.parametrize('source', ['x.csv', './x.csv', '../a/x.csv'])
def test_relative_files(tmp_path, monkeypatch, source):
    folder = tmp_path / 'annotations'
    folder.mkdir()
    (tmp_path / 'a').symlink_to(folder)
    (tmp_path / 'images').mkdir()
    Image.new('RGB', (8, 8)).save(tmp_path / 'images/a.png')
    (folder / 'x.csv').write_text('image,caption\na.png,a dog\n')
    monkeypatch.chdir(folder)
    out = tmp_path / 'out'
    assert import_data(source, '-o', out, '-q') == 0
    (record,) = records(out / 'filter_cap.json')
    assert record['image'] == str(tmp_path / 'images/a.png')


def test_nothing_imported_names_no_file(captions, tmp_path, capsys):
    path = tmp_path / 'a.csv'
    path.write_text('image,caption\nx.jpg,a dog\n')
    assert import_data(path, '-o', tmp_path / 'out') == 1
    output = capsys.readouterr().out
    assert 'no data are written' in output and 'train' not in output
    folder = tmp_path / 'folder'
    folder.mkdir()
    for name in 'ab':
        Image.new('RGB', (8, 8)).save(folder / f'{name}.png')
        (folder / f'{name}.txt').write_text('one\ntwo')
    assert import_data(folder, '-o', tmp_path / 'out') == 0
    assert 'id of an earlier one' not in capsys.readouterr().out


def test_a_killed_import_continues(captions, tmp_path):
    """Some shards are finished; the rest is written by the next run."""
    expected = tmp_path / 'expected'
    options = ('--to', 'stage1', '--shard-size', 2, '-q')
    assert import_data(captions, '-o', expected, *options) == 0
    out = tmp_path / 'out'
    script = (
        'import os, signal, sys\n'
        'from minigpt4.data_tools import import_shards as module\n'
        'from minigpt4_cli.main import main\n'
        'write, count = module._write_shard, [0]\n'
        'def stop(*args):\n'
        '    count[0] += 1\n'
        '    if count[0] == 6: os.kill(os.getpid(), signal.SIGKILL)\n'
        '    return write(*args)\n'
        'module._write_shard = stop\n'
        'main(sys.argv[1:])\n'
    )
    command = [sys.executable, '-c', script, 'data', 'import', str(captions)]
    run = subprocess.run([*command, '-o', str(out), *map(str, options)])
    assert run.returncode == -signal.SIGKILL
    finished = sorted(out.glob('*.tar'))
    assert len(finished) == 5
    times = [path.stat().st_mtime_ns for path in finished]
    time.sleep(0.01)
    assert import_data(captions, '-o', out, *options) == 0
    assert [path.stat().st_mtime_ns for path in finished] == times
    for path in sorted(expected.glob('*.tar')):
        assert (out / path.name).read_bytes() == path.read_bytes()
    assert skipped(out) == skipped(expected)


def test_an_earlier_import_is_not_replaced(captions, tmp_path, capsys):
    out = tmp_path / 'out'
    for stage in ('stage2', 'stage1'):
        arguments = (captions, '-o', out, '--to', stage, '-q')
        assert import_data(*arguments) == 0
        assert import_data(*arguments) == 1
        assert 'or --overwrite to replace it' in capsys.readouterr().err
        assert import_data(*arguments, '--overwrite', '--limit', 5) == 0
    assert len(records(out / 'filter_cap.json')) == 5
    assert len(shard_samples(out)) == 5


def test_a_full_disk_leaves_no_part(captions, tmp_path, capsys, monkeypatch):
    from minigpt4.data_tools import import_json

    def full(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(import_json.os, 'fsync', full)
    out = tmp_path / 'out'
    assert import_data(captions, '-o', out, '--split', '0.5,0.5') == 1
    assert 'No space left on device' in capsys.readouterr().err
    assert not list(out.glob('*.json')) and not list(out.glob('.*.part'))


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['missing.json', '-o', 'x'], 'missing.json does not exist'),
        (['a.json', '-o', 'x', '--format', 'coco-caption'], 'did you mean'),
        (['a.json', '-o', 'x'], 'has no known format'),
    ],
)
def test_a_wrong_source(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'a.json').write_text('[1, 2]')
    assert import_data(*arguments) == 1
    error = capsys.readouterr().err
    assert message in error and error.count('\n') == 1


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['a'], 'give SOURCE and -o DIR'),
        (['a', '-o', 'x', '--split', '0.9,0.2'], 'with the sum 1'),
        (['a', '-o', 'x', '--dedup', '40'], 'from 0 to 10'),
        (['a', '-o', 'x', '--name', 'b/c'], 'not the name of a file'),
    ],
)
def test_a_wrong_command_line(capsys, arguments, message):
    with pytest.raises(SystemExit) as error:
        import_data(*arguments)
    assert error.value.code == 2
    assert message in ' '.join(capsys.readouterr().err.split())


def test_formats_are_listed(capsys):
    assert import_data('--formats') == 0
    output = capsys.readouterr().out
    for name in ('coco-captions', 'llava', 'narratives', 'a-okvqa', 'gqa'):
        assert f'\n{name} ' in output
    assert 'import' in data.ACTIONS


def test_shards_are_divided_too(captions, tmp_path):
    out = tmp_path / 'out'
    options = ('--to', 'stage1', '--split', '0.8,0.2', '-q')
    assert import_data(captions, '-o', out, *options) == 0
    assert len(shard_samples(out / 'train')) == 24
    assert len(shard_samples(out / 'test')) == 6
    with tarfile.open(out / 'test/00000.tar') as tar:
        assert len(tar.getnames()) == 18
    assert os.listdir(out) and not (out / '.import').exists()
