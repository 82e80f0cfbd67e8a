# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Damage of a tar is reported, and the rest of it is still read."""

import io
import os
import shutil
import subprocess
import tarfile

import pytest

from minigpt4.datasets.shard_samples import group_samples
from minigpt4.datasets.tar_reader import TarReader


def tar(*members, **settings):
    """Make a tar of members, given as name (or TarInfo) and bytes."""
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


COMPLETE = tar(*pairs(10))
HEADERS = [
    member.offset
    for member in tarfile.open(fileobj=io.BytesIO(COMPLETE)).getmembers()
]


def read(data, chunk=700, size=True):
    """Return the keys of the complete samples in a tar, and the reports."""
    reports = []
    chunks = (data[i : i + chunk] for i in range(0, len(data), chunk))

    def report(kind, text):
        reports.append((kind, text))

    members = TarReader(chunks, report, lambda: len(data) if size else None)
    samples = list(group_samples(members, 'x.tar', report))
    good = [s['__key__'] for s in samples if {'jpg', 'json'} <= {*s}]
    return good, reports


ALL = [f'{i:03d}' for i in range(10)]


def test_valid_tar_is_read_without_a_report():
    for size in (True, False):
        for chunk in (512, 700, 1 << 20):
            assert read(COMPLETE, chunk, size) == (ALL, [])
    names = {name: data for name, data in pairs(10)}
    assert dict(TarReader([COMPLETE], print)) == names


@pytest.mark.parametrize('form', ['USTAR', 'GNU', 'PAX'])
@pytest.mark.parametrize('folder', ['', 'long/' * 60, './', '../../', '/etc/'])
def test_names_of_every_tar_format_are_read(form, folder):
    if form == 'USTAR' and len(folder) > 99:
        folder = 'f' * 99 + '/'
    members = [(folder + name, data) for name, data in pairs(3)]
    data = tar(*members, format=getattr(tarfile, f'{form}_FORMAT'))
    assert dict(TarReader([data], print)) == dict(members)


def test_non_ascii_names_are_read():
    members = [('é日.jpg', b'1'), ('\udc80.jpg', b'2')]
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        data = tar(*members, format=form)
        assert dict(TarReader([data], print)) == dict(members)


def flipped(at, data=COMPLETE):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def zeroed(at, size):
    return COMPLETE[:at] + bytes(size) + COMPLETE[at + size :]


def resized(at, size):
    """Set another size in a header, with a valid checksum."""
    block = bytearray(COMPLETE[at : at + 512])
    block[124:136] = size
    block[148:156] = b' ' * 8
    block[148:156] = b'%06o\0 ' % sum(block)
    return COMPLETE[:at] + bytes(block) + COMPLETE[at + 512 :]


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
        (COMPLETE[: H + 100] + os.urandom(300) + COMPLETE[H + 400 :], 1),
        (
            COMPLETE[: H + 700] + COMPLETE[H + 800 :],
            2,
        ),  # without 100 bytes
        (COMPLETE[:H] + b'x' * 77 + COMPLETE[H:], 0),  # 77 bytes too many
        (COMPLETE.replace(b'003.jpg', b'00\xff.jpg', 1), 1),
    ],
)
def test_members_after_damage_are_read(data, lost, size):
    got, reports = read(data, size=size)
    assert len(got) >= 10 - lost and {*got} <= {*ALL}
    kinds = [kind for kind, _ in reports]
    assert kinds and {*kinds} == {'damaged'}
    text = reports[0][1]
    assert 'cannot be read' in text and 'reading continues' in text


def test_report_counts_the_skipped_bytes():
    _, ((_, text),) = read(flipped(H + 100))
    assert text.startswith(f'{NEXT:,} bytes from byte {H:,} on cannot be read')


@pytest.mark.parametrize(
    'data, whole, reason',
    [
        (COMPLETE[:H], 3, 'end mark is missing; 6 files'),
        (COMPLETE[: H + 300], 3, 'end mark is missing; 6 files'),
        (COMPLETE[: H + 600], 3, 'cut inside 003.jpg'),
        (COMPLETE[: HEADERS[7] + 520], 3, 'cut inside 003.json'),
        (b'', 0, 'an empty file'),
        (b'<html>' * 999, 0, 'a damaged header'),
        (bytes(10240), 0, 'contains no file'),
        (b'x' * 100, 0, 'cannot be read'),
    ],
)
@pytest.mark.parametrize('size', [True, False])
def test_truncated_tar_is_reported(data, whole, reason, size):
    got, ((kind, text),) = read(data, size=size)
    assert got == ALL[:whole]
    assert kind == 'damaged' and reason in text


def test_joined_tars_are_read_completely():
    second = tar(*[('b' + name, data) for name, data in pairs(2)])
    got, ((kind, text),) = read(COMPLETE + second)
    assert got == [*ALL, 'b000', 'b001']
    assert kind == 'joined' and f'byte {len(COMPLETE):,}' in text


def test_bytes_after_the_end_mark_are_reported():
    got, ((kind, text),) = read(COMPLETE + b'garbage' * 200)
    assert got == ALL and kind == 'damaged'
    assert 'zeros before further bytes' in text
    assert read(COMPLETE + bytes(99_000)) == (ALL, [])


@pytest.mark.parametrize(
    'kind, called',
    [
        (tarfile.SYMTYPE, 'a symbolic link'),
        (tarfile.LNKTYPE, 'a hard link'),
        (tarfile.FIFOTYPE, 'a FIFO'),
        (tarfile.CHRTYPE, 'a device'),
    ],
)
def test_special_member_is_reported(kind, called):
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
    assert dict(TarReader([data], print)) == want


@pytest.mark.parametrize('size', ['²', '9' * 5000, '-1', '1e3', ''])
def test_invalid_pax_size_is_ignored(size):
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
