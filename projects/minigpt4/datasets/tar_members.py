# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Members of a tar file; damage is reported and skipped.

Python's ``tarfile`` takes a damaged header and a file that was cut between
two members for the end of the archive, without an error. Here the end is
the end mark (zero blocks), and after a damaged header the next one is
searched.
"""

import io
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator

from .shard_files import ShardReadError
from .tar_stream import (
    BLOCK,
    MAX_MEMBER_BYTES,
    NO_DATA,
    TarStream,
    fits,
    parse_header,
)

_SIZE = re.compile(r'[0-9]{1,18}')  # of a pax record, in bytes
_MAX_HEADER_BYTES = 1 << 20  # of a long name or of pax records
_ZEROS = bytes(BLOCK)
_RECORD = 20 * BLOCK  # most programs fill the end of a tar up to this
_EXTENSIONS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
_UNREAD = {
    tarfile.LNKTYPE: 'a hard link',
    tarfile.SYMTYPE: 'a symbolic link',
    tarfile.CHRTYPE: 'a device',
    tarfile.BLKTYPE: 'a device',
    tarfile.FIFOTYPE: 'a FIFO',
}
Report = Callable[[str, str], None]


class TarMembers:
    """Names and bytes of the regular files in a tar.

    Args:
        chunks: The tar, in pieces.
        report: Function of a kind (``'damaged'``, ``'joined'``, ``'unread'``)
            and a sentence, called for what is not read.
        size: Function that gives the bytes of the tar, or None where that is
            not known; it is called after the first piece was read.
    """

    def __init__(
        self,
        chunks: Iterable[bytes],
        report: Report,
        size: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._window = TarStream(chunks)
        self._report = report
        self._size = size
        self._members = 0
        self._extensions = b''  # the blocks of pax records, for sparse files
        self._sparse = False

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        try:
            yield from self._read()
        except ShardReadError as error:
            self._end(f'cannot be read ({error})')

    def _end(self, reason: str) -> None:
        self._report(
            'damaged',
            f'the rest of a shard is skipped: from byte '
            f'{self._window.offset:,} on it {reason}; {self._members:,} files '
            'of it were read.',
        )

    def _read(self) -> Iterator[tuple[str, bytes]]:
        window = self._window
        name = ''  # of a long-name or pax header, for the next member
        size: int | None = None
        while True:
            start = window.offset
            block = window.peek(BLOCK)
            if len(block) < BLOCK:
                if not start and not block:
                    self._end('cannot be read: it is an empty file')
                else:
                    self._end(
                        'cannot be read: it was cut, its end mark is missing'
                    )
                return
            if block == _ZEROS:
                window.skip(BLOCK)
                if not self._after_zeros(start):
                    return
                continue
            info = parse_header(block)
            if info and size is not None and info.type not in _EXTENSIONS:
                info.size = size
            if info is None or not fits(info, start + BLOCK, self._size()):
                window.skip(1)
                if not self._recover(start, info):
                    return
                name, size = '', None
                continue
            window.skip(BLOCK)
            if info.type in _EXTENSIONS:
                found = self._extension(info, block)
                if found is None:
                    name, size = '', None
                    continue
                if info.type != tarfile.XGLTYPE:
                    name, size = found[0] or name, found[1] or size
                continue
            if name:
                info.name = name
            name, size = '', None
            data = self._data_of(info, block)
            self._extensions, self._sparse = b'', False
            if data is not None:
                self._members += 1
                yield info.name, data
            elif info.type in tarfile.REGULAR_TYPES and not window.peek(1):
                return

    def _data_of(self, info: tarfile.TarInfo, block: bytes) -> bytes | None:
        """The bytes of a regular file; None of anything else."""
        window = self._window
        if info.type in _UNREAD:
            self._report(
                'unread', f'{info.name} is {_UNREAD[info.type]}: not read.'
            )
        if info.type in NO_DATA:
            return None
        padding = -info.size % BLOCK
        if info.size > MAX_MEMBER_BYTES:
            self._report(
                'unread',
                f'{info.name} has {info.size:,} bytes: not read; expected at '
                f'most {MAX_MEMBER_BYTES:,}.',
            )
        elif info.type in (
            tarfile.REGTYPE,
            tarfile.AREGTYPE,
            tarfile.CONTTYPE,
        ):
            data = window.take(info.size)
            if len(data) < info.size:
                self._end(f'cannot be read: it was cut inside {info.name}')
                return None
            window.skip(padding)
            if self._sparse:
                raw = self._extensions + block + data + bytes(padding)
                return self._expanded(raw, info)
            return data
        elif info.type == tarfile.GNUTYPE_SPARSE:
            raw, more = block, block[482:483]  # a block of its map follows
            while more.strip(b'\0'):
                raw += window.take(BLOCK)
                more = raw[-8:-7]
            raw += window.take(info.size + padding)
            return self._expanded(raw, info)
        window.skip(info.size + padding)
        return None

    def _expanded(self, raw: bytes, info: tarfile.TarInfo) -> bytes | None:
        """The bytes of a sparse file, from all blocks of its member."""
        try:
            with tarfile.open(fileobj=io.BytesIO(raw + 2 * _ZEROS)) as tar:
                member = tar.next()
                if member is None or member.size > MAX_MEMBER_BYTES:
                    raise ValueError('no sparse file of a usable size')
                info.name = member.name
                file = tar.extractfile(member)
                return file.read() if file else None
        except (tarfile.TarError, ValueError, IndexError, OSError) as error:
            self._report(
                'damaged',
                f'the sparse file {info.name} cannot be read ({error}).',
            )
            return None

    def _extension(
        self, info: tarfile.TarInfo, block: bytes
    ) -> tuple[str, int | None] | None:
        """Name and size for the next member; None where it is damaged."""
        start = self._window.offset
        if info.size > _MAX_HEADER_BYTES:
            self._recover(start, info)
            return None
        data = self._window.take(info.size)
        self._extensions = block + data + bytes(-info.size % BLOCK)
        self._window.skip(-info.size % BLOCK)
        if info.type == tarfile.GNUTYPE_LONGLINK:
            return '', None
        if info.type == tarfile.GNUTYPE_LONGNAME:
            text = data.partition(b'\0')[0]
            return text.decode('utf-8', 'surrogateescape'), None
        records = _pax_records(data)
        if records is None:
            self._report(
                'damaged', f'pax records at byte {start:,} cannot be read.'
            )
            return '', None
        self._sparse = any(key.startswith('GNU.sparse') for key in records)
        size = records.get('size', '')
        known = _SIZE.fullmatch(size)
        return records.get('path', ''), int(size) if known else None

    def _after_zeros(self, start: int) -> bool:
        """Look what follows zero blocks; whether there is a header."""
        window = self._window
        window.skip_zero_blocks()
        head = window.peek(BLOCK)
        if not head:  # the sound end
            if not self._members:
                self._report('damaged', 'it holds no file, only zeros.')
            return False
        if parse_header(head) and window.offset % _RECORD == 0:
            self._report(
                'joined',
                f'a further tar begins at byte {window.offset:,}: files were '
                'joined; all are read.',
            )
            return True
        return self._recover(start, None, 'zeros before further bytes')

    def _recover(
        self,
        start: int,
        info: tarfile.TarInfo | None,
        wrong: str = 'a damaged header',
    ) -> bool:
        """Skip damage; whether a valid header follows.

        Args:
            start: Where the damage begins.
            info: The header, where it is sound and its size is not.
            wrong: What the damage is, without such a header.
        """
        window = self._window
        found = window.find_header(self._size())
        if info:
            wrong = (
                f'a header with {info.size:,} bytes'
                if found
                else f'it was cut inside {info.name}'
            )
        passed = f'{window.offset - start:,} bytes from byte {start:,} on'
        if found:
            self._report(
                'damaged',
                f'{passed} cannot be read ({wrong}); reading goes on after '
                'them.',
            )
        else:
            self._report(
                'damaged',
                f'the rest of a shard is skipped: {passed} cannot be read '
                f'({wrong}); {self._members:,} files of it were read.',
            )
        return found


def _pax_records(data: bytes) -> dict[str, str] | None:
    """Records ``LENGTH KEY=VALUE\\n``; None where they are damaged."""
    records = {}
    at = 0
    data = data.rstrip(b'\0')
    while at < len(data):
        length, _, _ = data[at : at + 20].partition(b' ')
        if not length.isdigit() or not int(length):
            return None
        record = data[at + len(length) + 1 : at + int(length) - 1]
        key, equals, value = record.partition(b'=')
        if not equals:
            return None
        records[key.decode('utf-8', 'surrogateescape')] = value.decode(
            'utf-8', 'surrogateescape'
        )
        at += int(length)
    return records
