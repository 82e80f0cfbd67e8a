# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
import json
import os
import signal

import pytest
from tests.data_sets import jpeg, noise, pair, write_shard
from tests.shard_server import ShardServer

from minigpt4.utils.data_manifest import read_shards
from minigpt4_cli.main import main


def check(capsys, *words):
    status = main(['data', 'check', '--near', '0', *map(str, words)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_problems_are_named_and_exit_with_1(capsys, records):
    status, out, _ = check(capsys, records)
    assert status == 1
    assert out.startswith('4 records (4 valid), 4 images, 4 turns in ')
    assert 'x unreadable: 1 images' in out
    assert '4.jpg cannot be read as an image: it is truncated' in out
    assert out.endswith('result: more problems than accepted: unreadable\n')


@pytest.mark.parametrize(
    ('limit', 'status'), [('1', 0), ('0', 1), ('25%', 0), ('24.9%', 1)]
)
def test_limits(capsys, records, limit, status):
    assert check(capsys, records, '-q', '--max-unreadable', limit)[0] == status


def test_quiet_prints_nothing_for_good_data(capsys, records):
    (records / 'image' / '4.jpg').write_bytes(jpeg(noise(4)))
    assert check(capsys, records, '-q') == (0, '', '')


def test_wrong_limits_exit_with_2(capsys, records):
    with pytest.raises(SystemExit) as stop:
        check(capsys, records, '--max-unreadable', 'many')
    assert stop.value.code == 2
    assert 'expected a whole number' in capsys.readouterr().err


def test_missing_data_exit_with_1(capsys, tmp_path):
    status, _, err = check(capsys, tmp_path / 'gone')
    assert status == 1 and 'gone does not exist' in err


def test_output_and_its_verification(capsys, records, tmp_path):
    out = tmp_path / 'out'
    assert check(capsys, records, '-o', out, '--max-unreadable', 1)[0] == 0
    assert sorted(path.name for path in out.iterdir()) == [
        'manifest.json',
        'problems.jsonl',
        'report.html',
        'summary.json',
    ]
    summary = json.loads((out / 'summary.json').read_text())
    assert summary['records'] == 4 and summary['complete']
    assert summary['problems']['unreadable']['count'] == 1
    words = (records, '--max-unreadable', 1, '--verify', out / 'manifest.json')
    assert check(capsys, *words)[0] == 0
    (records / 'image' / '2.jpg').write_bytes(jpeg(noise(8)))
    status, text, _ = check(capsys, *words)
    assert status == 1
    assert 'changed since the manifest: image/2.jpg' in text


def test_a_folder_of_other_files_is_no_output(capsys, records):
    status, _, err = check(capsys, records, '-o', records)
    assert status == 1 and 'has other files; give a new folder' in err


def test_overlap_with_held_out_data(capsys, records, tmp_path):
    other = tmp_path / 'other'
    other.mkdir()
    (other / 'x.jpg').write_bytes(jpeg(noise(1)))
    status, out, _ = check(
        capsys, records, '--against', other, '--max-unreadable', 1
    )
    assert status == 1
    assert 'x overlap: 1 images in training and held-out data' in out


def test_a_signal_reports_what_was_read(
    capsys, records, tmp_path, monkeypatch
):
    from minigpt4.data_tools.scan import Scan

    add = Scan._add_record

    def add_and_stop(self, item, bits):
        add(self, item, bits)
        if self.num_records == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Scan, '_add_record', add_and_stop)
    status, out, err = check(capsys, records, '-o', tmp_path / 'out')
    assert status == 130
    assert out.startswith('2 records')
    assert 'the first 2 records' in err
    assert not (tmp_path / 'out' / 'manifest.json').exists()
    assert 'stopped before' in (tmp_path / 'out' / 'report.html').read_text()


def test_a_signal_ends_the_digests(capsys, records, tmp_path, monkeypatch):
    from minigpt4.data_tools import check_progress

    def stop_and_digest(path):
        os.kill(os.getpid(), signal.SIGINT)
        return '0' * 64

    monkeypatch.setattr(check_progress, 'compute_digest', stop_and_digest)
    content = (records / 'filter_cap.json').read_bytes()
    (records / 'other.json').write_bytes(content)
    status, out, _ = check(capsys, records, '-o', tmp_path / 'out')
    assert status == 130
    assert out.startswith('8 records')
    assert not (tmp_path / 'out' / 'manifest.json').exists()


def test_names_without_valid_unicode(capsys, tmp_path):
    folder = tmp_path / os.fsdecode(b'photos\xff')
    folder.mkdir()
    for i in range(2):
        name = os.fsdecode(b'%d\xff.jpg' % i)
        (folder / name).write_bytes(jpeg(noise(1)))
    shard = folder.with_name(os.fsdecode(b'web\xff')) / '0.tar'
    write_shard(shard, {'7': pair(2, 'a cat')})
    out = tmp_path / 'out'
    assert check(capsys, folder, shard.parent, '-o', out)[0] == 0
    summary = json.loads((out / 'summary.json').read_text())
    assert (summary['records'], summary['images']) == (3, 3)
    problems = (out / 'problems.jsonl').read_text().splitlines()
    kinds = [json.loads(line)['kind'] for line in problems]
    assert kinds == ['no-text', 'no-text', 'duplicate-images']
    assert len(json.loads((out / 'manifest.json').read_text())['shards']) == 1


def test_password_of_an_address_is_not_stored(capsys, tmp_path, monkeypatch):
    monkeypatch.delenv('http_proxy', raising=False)
    samples = {'1': {'jpg': jpeg(noise(1)), 'txt': b'a dog.'}}
    write_shard(tmp_path / 'served' / 'a.tar', samples)
    out = tmp_path / 'out'
    with ShardServer(tmp_path / 'served') as server:
        for name in ('a.tar', 'missing.tar'):
            base = server.url.replace('//', '//user:s3cret@')
            _, *texts = check(capsys, f'{base}/x/{name}', '-o', out)
            texts += [path.read_text() for path in out.rglob('*.json')]
            texts += [path.read_text() for path in out.rglob('*.html')]
            assert 's3cret' not in str(texts)
            if name == 'a.tar':
                assert (
                    '://***@127.0.0.1' in (out / 'manifest.json').read_text()
                )
                with pytest.raises(ValueError, match='without its user and'):
                    read_shards(out / 'manifest.json')
