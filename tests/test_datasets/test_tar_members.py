# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Damage of a tar is reported, and the rest of it is still read."""

import bz2
import gzip
import io
import lzma
import os
import shutil
import subprocess
import tarfile
import threading
import time

import pytest

from minigpt4.datasets import shard_files
from minigpt4.datasets.shard_files import ShardBytes, find_shards
from minigpt4.datasets.shard_samples import samples_of
from minigpt4.datasets.tar_members import TarMembers
from minigpt4.utils.time_limit import READ_SECONDS_VARIABLE


def tar(*members, **settings):
    """Bytes of a tar of names (or TarInfo) and bytes."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode='w', **settings) as file:
        for name, data in members:
            info = name
            if isinstance(name, str):
                info = tarfile.TarInfo(name)
                info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return out.getvalue()


def pairs(count):
    return [
        (f'{i:03d}.{suffix}', f'{suffix} {i} '.encode() * 90)
        for i in range(count)
        for suffix in ('jpg', 'json')
    ]


WHOLE = tar(*pairs(10))
HEADERS = [
    member.offset
    for member in tarfile.open(fileobj=io.BytesIO(WHOLE)).getmembers()
]


def read(data, chunk=700, size=True):
    """Keys of the whole samples of a tar, and the reports."""
    reports = []
    chunks = (data[i : i + chunk] for i in range(0, len(data), chunk))

    def report(kind, text):
        reports.append((kind, text))

    members = TarMembers(chunks, report, lambda: len(data) if size else None)
    samples = list(samples_of(members, 'x.tar', report))
    good = [s['__key__'] for s in samples if {'jpg', 'json'} <= {*s}]
    return good, reports


ALL = [f'{i:03d}' for i in range(10)]


def test_a_sound_tar_is_read_without_a_report():
    for size in (True, False):
        for chunk in (512, 700, 1 << 20):
            assert read(WHOLE, chunk, size) == (ALL, [])
    names = {name: data for name, data in pairs(10)}
    assert dict(TarMembers([WHOLE], print)) == names


@pytest.mark.parametrize('form', ['USTAR', 'GNU', 'PAX'])
@pytest.mark.parametrize('folder', ['', 'long/' * 60, './', '../../', '/etc/'])
def test_names_of_every_form(form, folder):
    if form == 'USTAR' and len(folder) > 99:
        folder = 'f' * 99 + '/'
    members = [(folder + name, data) for name, data in pairs(3)]
    data = tar(*members, format=getattr(tarfile, f'{form}_FORMAT'))
    assert dict(TarMembers([data], print)) == dict(members)


def test_names_that_are_no_ascii():
    members = [('é日.jpg', b'1'), ('\udc80.jpg', b'2')]
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        data = tar(*members, format=form)
        assert dict(TarMembers([data], print)) == dict(members)


def flipped(at, data=WHOLE):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def zeroed(at, size):
    return WHOLE[:at] + bytes(size) + WHOLE[at + size :]


def resized(at, size):
    """A header with another size and a right checksum."""
    block = bytearray(WHOLE[at : at + 512])
    block[124:136] = size
    block[148:156] = b' ' * 8
    block[148:156] = b'%06o\0 ' % sum(block)
    return WHOLE[:at] + bytes(block) + WHOLE[at + 512 :]


H = HEADERS[6]  # of 003.jpg
NEXT = HEADERS[7] - H


@pytest.mark.parametrize('size', [True, False])
@pytest.mark.parametrize(
    'data, lost',
    [
        (flipped(H + 100), 1),  # its mode
        (flipped(H + 1), 1),  # its name
        (flipped(H + 150), 1),  # its checksum
        (zeroed(H, 512), 1),
        (zeroed(H, 1024), 1),
        (zeroed(H, 512 * 9), 2),
        (resized(H, b'77777777777\0'), 1),  # 8 GiB
        (resized(H, b'\x80' + b'\x7f' * 11), 1),
        (resized(H, b'\xff' * 12), 1),  # negative
        (WHOLE[: H + 100] + os.urandom(300) + WHOLE[H + 400 :], 1),
        (WHOLE[: H + 700] + WHOLE[H + 800 :], 2),  # 100 bytes are missing
        (WHOLE[:H] + b'x' * 77 + WHOLE[H:], 0),  # 77 bytes too many
        (WHOLE.replace(b'003.jpg', b'00\xff.jpg', 1), 1),
    ],
)
def test_reading_goes_on_behind_damage(data, lost, size):
    got, reports = read(data, size=size)
    assert len(got) >= 10 - lost and {*got} <= {*ALL}
    kinds = [kind for kind, _ in reports]
    assert kinds and {*kinds} == {'damaged'}
    text = reports[0][1]
    assert 'cannot be read' in text and 'reading goes on' in text


def test_the_bytes_that_are_passed_over_are_counted():
    _, ((_, text),) = read(flipped(H + 100))
    assert text.startswith(f'{NEXT:,} bytes from byte {H:,} on cannot be read')


@pytest.mark.parametrize(
    'data, whole, reason',
    [
        (WHOLE[:H], 3, 'end mark is missing; 6 files'),
        (WHOLE[: H + 300], 3, 'end mark is missing; 6 files'),
        (WHOLE[: H + 600], 3, 'cut inside 003.jpg'),
        (WHOLE[: HEADERS[7] + 520], 3, 'cut inside 003.json'),
        (b'', 0, 'an empty file'),
        (b'<html>' * 999, 0, 'a damaged header'),
        (bytes(10240), 0, 'holds no file'),
        (b'x' * 100, 0, 'cannot be read'),
    ],
)
@pytest.mark.parametrize('size', [True, False])
def test_a_tar_that_ends_early_is_reported(data, whole, reason, size):
    got, ((kind, text),) = read(data, size=size)
    assert got == ALL[:whole]
    assert kind == 'damaged' and reason in text


def test_joined_tars_are_read_whole():
    second = tar(*[('b' + name, data) for name, data in pairs(2)])
    got, ((kind, text),) = read(WHOLE + second)
    assert got == [*ALL, 'b000', 'b001']
    assert kind == 'joined' and f'byte {len(WHOLE):,}' in text


def test_bytes_behind_the_end_mark_are_reported():
    got, ((kind, text),) = read(WHOLE + b'garbage' * 200)
    assert got == ALL and kind == 'damaged'
    assert 'zeros before further bytes' in text
    assert read(WHOLE + bytes(99_000)) == (ALL, [])


@pytest.mark.parametrize(
    'kind, called',
    [
        (tarfile.SYMTYPE, 'a symbolic link'),
        (tarfile.LNKTYPE, 'a hard link'),
        (tarfile.FIFOTYPE, 'a FIFO'),
        (tarfile.CHRTYPE, 'a device'),
    ],
)
def test_a_member_that_is_no_file_is_named(kind, called):
    info = tarfile.TarInfo('005.jpg')
    info.type, info.linkname = kind, '/etc/passwd'
    folder = tarfile.TarInfo('folder.jpg')
    folder.type = tarfile.DIRTYPE
    data = tar((folder, b''), (info, b''), ('005.json', b'{}'), *pairs(1))
    got, reports = read(data)
    assert got == ['000']
    assert reports == [('unread', f'005.jpg is {called}: not read.')]


@pytest.mark.skipif(not shutil.which('tar'), reason='no tar program')
@pytest.mark.parametrize('form', ['gnu', 'pax'])
def test_sparse_files_are_read(tmp_path, form):
    (tmp_path / '0.jpg').write_bytes(b'start')
    os.truncate(tmp_path / '0.jpg', 300_000)
    with open(tmp_path / '0.jpg', 'r+b') as file:
        for at in range(0, 300_000, 30_000):  # more parts than a header holds
            file.seek(at)
            file.write(b'part')
    (tmp_path / '0.txt').write_bytes(b'dog')
    names = ['0.jpg', '0.txt']
    subprocess.run(
        ['tar', '-S', f'--format={form}', '-cf', 'a.tar', *names],
        cwd=tmp_path,
        check=True,
    )
    data = (tmp_path / 'a.tar').read_bytes()
    assert len(data) < 250_000
    want = {name: (tmp_path / name).read_bytes() for name in names}
    assert dict(TarMembers([data], print)) == want


@pytest.mark.parametrize('size', ['²', '9' * 5000, '-1', '1e3', ''])
def test_a_pax_size_that_is_not_a_number_is_not_used(size):
    record = f' size={size}\n'.encode()
    length = len(record)
    while length != len(record) + len(str(length)):
        length = len(record) + len(str(length))
    header = tarfile.TarInfo('pax')
    header.type = tarfile.XHDTYPE
    data = str(length).encode() + record
    header.size = len(data)
    good, _ = read(tar((header, data), *pairs(2)))
    assert good == ['000', '001']


def keys(*names):
    reports = []
    members = [(name, name.encode()) for name in names]
    found = samples_of(members, 'x', lambda *report: reports.append(report))
    return [
        (s.pop('__key__'), *sorted({*s} - {'__url__'})) for s in found
    ], reports


@pytest.mark.parametrize(
    'names, samples',
    [
        ('7.jpg 7.json 8.jpg 8.json', ['7 jpg json', '8 jpg json']),
        ('7.jpg 7.seg.png 7.json', ['7 jpg json seg.png']),
        ('7.cls.txt 7.jpg', ['7 cls.txt jpg']),
        # webdataset #237, datasets #7144
        ('22.05.jpg 22.05.json 22.06.jpg', ['22.05 jpg json', '22.06 jpg']),
        ('a.b.c.jpg a.b.c.txt', ['a.b.c jpg txt']),
        ('v1.0/7.jpg v1.0/7.txt', ['v1.0/7 jpg txt']),
        ('7.JPG 7.Json', ['7 jpg json']),
        ('._7.jpg 7.jpg __MACOSX/._7.jpg nodot', ['7 jpg']),
        ('set/7.jpg set/Thumbs.db set/7.txt', ['set/7 jpg txt']),
        ('set/7.jpg set/.DS_Store set/._7.txt set/7.txt', ['set/7 jpg txt']),
        ('7.mask 7.x.y', ['7 mask x.y']),
        ('7.jpg 7.__key__ 7.txt', ['7 jpg txt']),
    ],
)
def test_files_are_grouped_to_samples(names, samples):
    found, reports = keys(*names.split())
    assert [' '.join(each) for each in found] == samples
    assert reports == []


def test_files_that_do_not_follow_their_sample_are_named():
    """webdataset #140, ray #44068: such samples were lost silently."""
    found, reports = keys('0.jpg', '1.jpg', '0.txt', '1.txt')
    assert len(found) == 4
    assert [kind for kind, _ in reports] == ['unread'] * 2
    assert reports[0][1].startswith('0.txt does not follow the other files')


def test_a_long_run_of_names_with_one_beginning_is_grouped_in_pieces():
    names = [f'a.{i}.{x}' for i in range(200) for x in ('jpg', 'json', 'txt')]
    found, _ = keys(*names)
    assert found == [(f'a.{i}', 'jpg', 'json', 'txt') for i in range(200)]


def test_duplicates_are_told_and_the_first_is_used():
    found, reports = keys('7.jpg', '7.txt', '7.jpg', '7.TXT')
    assert found == [('7', 'jpg', 'txt')]
    assert [kind for kind, _ in reports] == ['duplicate'] * 2


# where the bytes come from


def load(path, remote=False):
    with ShardBytes(str(path), remote) as data:
        return b''.join(data)


@pytest.mark.parametrize(
    'pack', [bytes, gzip.compress, bz2.compress, lzma.compress]
)
def test_packed_shards_are_unpacked(tmp_path, pack):
    (tmp_path / 'a.tar').write_bytes(pack(WHOLE))
    assert load(tmp_path / 'a.tar') == WHOLE


@pytest.mark.parametrize('pack', [gzip.compress, bz2.compress, lzma.compress])
def test_a_packed_shard_that_was_cut_is_reported(tmp_path, pack):
    packed = pack(WHOLE)
    (tmp_path / 'a.tar').write_bytes(packed[:-20])
    reports = []
    with ShardBytes(str(tmp_path / 'a.tar')) as data:
        list(TarMembers(data, lambda *report: reports.append(report)))
    ((kind, text),) = reports
    assert kind == 'damaged' and 'cannot be read' in text


def test_what_stands_before_the_cut_of_a_packed_shard_is_read(tmp_path):
    data = tar(('0.jpg', b'1'), ('1.jpg', os.urandom(9000)))
    packed = gzip.compress(data)
    (tmp_path / 'a.tar.gz').write_bytes(packed[: len(packed) // 2])
    with ShardBytes(str(tmp_path / 'a.tar.gz')) as data:
        assert [n for n, _ in TarMembers(data, lambda *_: None)] == ['0.jpg']


def test_another_packer_is_named(tmp_path):
    (tmp_path / 'a.tar').write_bytes(b'(\xb5/\xfd' + bytes(99))
    with pytest.raises(shard_files.ShardReadError, match='with Zstandard; ex'):
        load(tmp_path / 'a.tar')


@pytest.mark.parametrize('kind', ['FIFO', 'character device', 'folder'])
def test_only_regular_files_are_read(tmp_path, kind):
    path = tmp_path / 'a.tar'
    if kind == 'FIFO':
        os.mkfifo(path)
    elif kind == 'folder':
        path.mkdir()
    else:
        path.symlink_to('/dev/zero')
    with pytest.raises(shard_files.ShardReadError, match=f'is a {kind}'):
        load(path)


def test_a_file_system_that_does_not_respond_is_given_up(
    tmp_path, monkeypatch
):
    monkeypatch.setenv(READ_SECONDS_VARIABLE, '0.05')
    release = threading.Event()
    monkeypatch.setattr(
        shard_files, 'open_regular', lambda path: release.wait()
    )
    with pytest.raises(shard_files.ShardReadError, match=r'within 0\.05 sec'):
        load(tmp_path / 'a.tar')
    release.set()


def test_a_thread_ends_where_a_shard_is_not_read_to_its_end(tmp_path):
    (tmp_path / 'a.tar').write_bytes(bytes(9 << 20))
    before = threading.active_count()
    with ShardBytes(str(tmp_path / 'a.tar')) as data:
        next(iter(data))
    for _ in range(100):
        if threading.active_count() <= before:
            break
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_a_wildcard_never_finds_a_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = 'pipe:touch ran;.tar'
    (tmp_path / name).write_bytes(WHOLE)
    for pattern in ('*.tar', [f'{tmp_path}/*.tar']):
        (shard,), remote, missing = find_shards(pattern)
        assert not remote and not missing
        assert load(shard) == WHOLE
    assert not (tmp_path / 'ran').exists()


def test_a_command_that_the_config_names_is_run(tmp_path):
    (tmp_path / 'a.tar').write_bytes(WHOLE)
    command = f'pipe:cat {tmp_path}/a.tar'
    assert find_shards(command) == ([command], {command}, 0)
    assert load(command, remote=True) == WHOLE
    url = 'https://host/{0..1}.tar?token=x'
    assert len(find_shards(url)[1]) == 2


@pytest.mark.parametrize(
    'folder', ['set [2024]', 'a[b]c', 'b{1,2}', 'run::2', 'x{y', 'run:1']
)
def test_a_path_that_exists_is_taken_as_it_is(tmp_path, folder, monkeypatch):
    """datasets #7468: brackets; webdataset #88: colons."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / folder).mkdir()
    for name in (f'{folder}/0.tar', f'{tmp_path}/{folder}/0.tar'):
        (tmp_path / folder / '0.tar').write_bytes(WHOLE)
        assert find_shards(name) == ([name], set(), 0)
        assert load(name) == WHOLE


def test_names_with_a_colon_are_files(tmp_path):
    (tmp_path / 'a:b.tar').write_bytes(WHOLE)
    names = [f'{tmp_path}/a:b.tar', f'file:{tmp_path}/a:b.tar', 'c:none.tar']
    found, remote, missing = find_shards(names)
    assert found == [f'{tmp_path}/a:b.tar'] * 2
    assert not remote and missing == 1
