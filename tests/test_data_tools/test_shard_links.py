# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
import json
import os
import sys

import pytest
from PIL import Image
from tests.data_sets import jpeg, noise
from tests.img2dataset_shards import Link, write_shard

from minigpt4.data_tools.shard_links import link_reason
from minigpt4.utils.data_manifest import read_shards
from minigpt4_cli.main import main

# of a run of img2dataset 1.47.0
MESSAGES = {
    'HTTP Error 404: Not Found': ('HTTP 404', False),
    'HTTP Error 410: Gone': ('HTTP 410', False),
    'HTTP Error 429: Too Many Requests': ('HTTP 429', True),
    'HTTP Error 503: Service Unavailable': ('HTTP 503', True),
    'HTTP Error 302: The HTTP server returned a redirect error that would '
    'lead to an infinite loop.\nThe last 30x error message was:\nFound': (
        'HTTP 302',
        False,
    ),
    'timed out': ('no answer within the time limit', True),
    '<urlopen error timed out>': ('no answer within the time limit', True),
    '<urlopen error [Errno 111] Connection refused>': ('no connection', True),
    'Remote end closed connection without response': ('no connection', True),
    'IncompleteRead(6301 bytes read, 5000 more expected)': (
        'the transfer was cut',
        True,
    ),
    '<urlopen error [Errno -2] Name or service not known>': (
        'the host has no address',
        False,
    ),
    '<urlopen error [Errno -3] Temporary failure in name resolution>': (
        'the name server did not answer',
        True,
    ),
    'Image decoding error': ('no image that OpenCV reads', False),
    'OpenCV(4.14.0) /io/opencv/modules/imgcodecs/src/loadsave.cpp:1310: '
    "error: (-215:Assertion failed) !buf.empty() in function 'imdecode_'\n": (
        'no image that OpenCV reads',
        False,
    ),
    'Use of image disallowed by X-Robots-Tag directive': (
        'not allowed by X-Robots-Tag',
        False,
    ),
    "unknown url type: 'not a url'": ('no URL of a web page', False),
    'aspect ratio too large': ('outside the limits of the size', False),
    'something new': ('another reason', False),
}


@pytest.mark.parametrize(('message', 'reason'), MESSAGES.items())
def test_reasons(message, reason):
    assert link_reason(message) == reason


@pytest.fixture
def web(tmp_path):
    """Two finished shards of links that failed in many ways."""
    folder = tmp_path / 'web'
    equal = jpeg(noise(7))
    write_shard(
        folder,
        0,
        [
            *[Link(f'photograph {i}') for i in range(3)],
            Link('one', image=equal),
            Link('two', image=equal),
            Link('blank', image=jpeg(Image.new('RGB', (64, 64), 'white'))),
            Link('cut', image=jpeg(noise(9))[:500]),
            Link('a page', image=b'<!doctype html><html></html>'),
            Link(None),
            Link('gone', 'HTTP Error 404: Not Found'),
            Link('busy', 'HTTP Error 503: Service Unavailable'),
        ],
    )
    write_shard(
        folder,
        1,
        [
            Link('photograph 9'),
            Link('slow', 'timed out'),
            Link(None, 'HTTP Error 404: Not Found'),
        ],
    )
    return folder


def check(capsys, folder, *words):
    out = folder.parent / 'check'
    accepted = ('--max-unreadable', '9', '--max-invalid', '9')
    args = [str(folder), '--near', '0', '-o', str(out), *accepted, *words]
    status = main(['data', 'check', *args])
    captured = capsys.readouterr()
    return status, captured.out + captured.err


def read(folder, name):
    return json.loads((folder.parent / 'check' / name).read_text())


def test_audit_of_finished_shards(capsys, web):
    status, text = check(capsys, web)
    assert status == 0
    assert 'is not used' not in text  # statistics and tables are no data
    found = read(web, 'summary.json')
    assert (found['records'], found['links']) == (10, 14)
    counts = {
        kind: problem['count']
        for kind, problem in found['problems'].items()
        if problem['count']
    }
    assert counts == {
        'unreadable': 2,
        'invalid': 1,  # without a caption
        'dead-links': 4,
        'duplicate-images': 1,
        'blank': 1,
    }
    assert '- dead-links: 4 links without an image (28.57 %' in text
    assert '    2 links: HTTP 404\n' in text
    assert '    1 links: HTTP 503, another attempt may work\n' in text


def test_the_manifest_has_the_shards(capsys, web):
    check(capsys, web)
    found = read(web, 'manifest.json')
    assert found['shards'] == [
        dict(shard=os.path.join('..', 'web', '00000.tar'), samples=6),
        dict(shard=os.path.join('..', 'web', '00001.tar'), samples=1),
    ]
    assert found['excluded'] == []
    shards = read_shards(web.parent / 'check' / 'manifest.json')
    assert shards == sorted(map(str, web.glob('*.tar')))


def test_unfinished_shards_are_excluded(capsys, web):
    write_shard(web, 2, [Link('photograph 20'), Link('photograph 21')])
    (web / '00002_stats.json').unlink()
    shard = write_shard(web, 3, [Link('photograph 30'), Link('photo 31')])
    with open(shard, 'r+b') as file:  # cut after the first sample
        file.truncate(5 * 512)
    write_shard(web, 4, [Link('photograph 40')])
    (web / '00004_stats.json').write_text('{"count": 1')
    write_shard(web, 5, [Link('gone', 'HTTP Error 404: Not Found')])
    status, text = check(capsys, web, '--max-damaged', '9')
    assert status == 1
    assert 'x unfinished: 3 shards that img2dataset did not finish' in text
    assert 'there is no 00002_stats.json, which ends a shard; run' in text
    assert '00003_stats.json counts 2 images; remove' in text
    assert '00004_stats.json cannot be read' in text
    found = read(web, 'manifest.json')
    assert len(found['shards']) == 2
    names = [os.path.basename(entry['shard']) for entry in found['excluded']]
    assert names == ['00002.tar', '00003.tar', '00004.tar', '00005.tar']
    assert found['excluded'][3]['reason'] == 'no sample of it can be used'
    assert check(capsys, web, '--max-damaged=9', '--max-unfinished=3')[0] == 0


def change_statistics(folder, number, **values):
    path = folder / f'{number:05d}_stats.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_links_without_a_recorded_reason_are_counted(capsys, web):
    count = json.loads((web / '00001_stats.json').read_text())['count']
    change_statistics(web, 1, count=count + 3)
    status, text = check(capsys, web)
    assert status == 0
    assert 'dead-links: 7 links without an image' in text
    assert '    3 links: no reason is recorded\n' in text


@pytest.mark.parametrize(
    'values',
    [
        dict(count=1),
        dict(status_dict={'HTTP Error 404: Not Found': 90, 'success': 1}),
        dict(status_dict={'HTTP Error 404: Not Found': -1}),
        dict(successes=-1),
    ],
)
def test_statistics_that_contradict_each_other(capsys, web, values):
    change_statistics(web, 1, **values)
    status, text = check(capsys, web)
    assert status == 1
    assert '00001_stats.json cannot be read (ValueError: of ' in text
    assert 'have a reason why they have none); remove it and run' in text


@pytest.mark.timeout(300)
def test_a_fifo_is_no_file_and_is_not_waited_for(capsys, web):
    os.mkfifo(web / '00002.tar')
    for number, ending in enumerate(('.parquet', '_stats.json')):
        path = web / f'{number:05d}{ending}'
        path.unlink()
        os.mkfifo(path)
    status, text = check(capsys, web)
    assert status == 1
    manifest = read(web, 'manifest.json')
    assert [s['shard'] for s in manifest['shards']] == ['../web/00000.tar']
    entry = manifest['files']['00002.tar']
    assert 'is a FIFO; expected a regular file' in entry['error']
    assert '00001_stats.json cannot be read (NotRegularFileError' in text
    assert check(capsys, web)[0] == 1


def test_links_for_another_attempt(capsys, web):
    pytest.importorskip('pyarrow')
    check(capsys, web)
    lines = (web.parent / 'check' / 'retry_links.jsonl').read_text()
    assert [json.loads(line) for line in lines.splitlines()] == [
        dict(url='http://127.0.0.1/10.jpg', caption='busy'),
        dict(url='http://127.0.0.1/101.jpg', caption='slow'),
    ]


def test_without_pyarrow_a_note_says_what_is_not_written(
    capsys, web, monkeypatch
):
    monkeypatch.setitem(sys.modules, 'pyarrow', None)
    status, text = check(capsys, web)
    assert status == 0
    assert 'retry_links.jsonl is not written: it needs the package' in text
    assert not (web.parent / 'check' / 'retry_links.jsonl').exists()


def test_shards_of_other_programs_have_no_links(capsys, web):
    for file in (*web.glob('*.json'), *web.glob('*.parquet')):
        file.unlink()
    assert check(capsys, web)[0] == 0
    assert read(web, 'summary.json')['links'] == 0
    assert len(read(web, 'manifest.json')['shards']) == 2
