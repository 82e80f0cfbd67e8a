# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Read the members of a tar file; report damage and skip it.

Python's ``tarfile`` treats a damaged header and a file that was cut between
two members as the end of the archive, without an error. Here the archive ends
at its end mark (zero blocks), and after a damaged header the next header is
searched.
"""

import io
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator

from .shard_files import LostShardError, ShardReadError
from .tar_stream import (
    BLOCK,
    MAX_MEMBER_BYTES,
    TYPES_WITHOUT_DATA,
    TarStream,
    data_fits,
    parse_header,
)

_PAX_SIZE = re.compile(r'[0-9]{1,18}')  # size of a member in a pax record
_MAX_EXTENSION_BYTES = 1 << 20  # of a long name or of pax records
_ZERO_BLOCK = bytes(BLOCK)
_RECORD = 20 * BLOCK  # most programs pad a tar to a multiple of this
# types of headers that describe the next member
_EXTENSION_TYPES = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
_SPECIAL_TYPES = {
    tarfile.LNKTYPE: 'a hard link',
    tarfile.SYMTYPE: 'a symbolic link',
    tarfile.CHRTYPE: 'a device',
    tarfile.BLKTYPE: 'a device',
    tarfile.FIFOTYPE: 'a FIFO',
}
Report = Callable[[str, str], None]


class TarReader:
    """Yields name and bytes of each regular file in a tar.

    Args:
        chunks: The bytes of the tar.
        report: Function of a kind (``'damaged'``, ``'given up'``,
            ``'joined'``, ``'unread'``) and a message, called for damage,
            for bytes that cannot be read and for members that are not read.
        size: Function that returns the size of the tar in bytes, or None if
            it is not known; called after the first chunk was read.
    """

    def __init__(
        self,
        chunks: Iterable[bytes],
        report: Report,
        size: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._stream = TarStream(chunks)
        self._report = report
        self._size = size
        self._num_files = 0
        self._extension = b''  # blocks of pax records, for a sparse file
        self._is_sparse = False

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        try:
            yield from self._read()
        except ShardReadError as error:
            is_lost = isinstance(error, LostShardError)
            self._report_rest(
                f'cannot be read ({error})',
                'given up' if is_lost else 'damaged',
            )

    @property
    def offset(self) -> int:
        """Byte after the last member that was read, its padding included."""
        return self._stream.offset

    def _report_rest(self, reason: str, kind: str = 'damaged') -> None:
        self._report(
            kind,
            f'the rest of a shard is skipped: from byte '
            f'{self._stream.offset:,} on it {reason}; {self._num_files:,} '
            'files of it were read.',
        )

    def _read(self) -> Iterator[tuple[str, bytes]]:
        stream = self._stream
        # from a long-name or pax header, for the next member
        name = ''
        size: int | None = None
        while True:
            start = stream.offset
            block = stream.peek(BLOCK)
            if len(block) < BLOCK:
                if not start and not block:
                    self._report_rest('cannot be read: it is an empty file')
                else:
                    self._report_rest(
                        'cannot be read: it was cut, its end mark is missing'
                    )
                return
            if block == _ZERO_BLOCK:
                stream.skip(BLOCK)
                if not self._continues_after_zeros(start):
                    return
                continue
            info = parse_header(block)
            if info and size is not None and info.type not in _EXTENSION_TYPES:
                info.size = size
            if info is None or not data_fits(
                info, start + BLOCK, self._size()
            ):
                stream.skip(1)
                if not self._recover(start, info):
                    return
                name, size = '', None
                continue
            stream.skip(BLOCK)
            if info.type in _EXTENSION_TYPES:
                found = self._read_extension(info, block)
                if found is None:
                    name, size = '', None
                    continue
                if info.type != tarfile.XGLTYPE:
                    name, size = found[0] or name, found[1] or size
                continue
            if name:
                info.name = name
            name, size = '', None
            data = self._read_data(info, block)
            self._extension, self._is_sparse = b'', False
            if data is not None:
                self._num_files += 1
                yield info.name, data
            elif info.type in tarfile.REGULAR_TYPES and not stream.peek(1):
                return

    def _read_data(self, info: tarfile.TarInfo, block: bytes) -> bytes | None:
        """Return the bytes of a regular file; None for another member."""
        stream = self._stream
        if info.type in _SPECIAL_TYPES:
            kind = _SPECIAL_TYPES[info.type]
            self._report('unread', f'{info.name} is {kind}: not read.')
        if info.type in TYPES_WITHOUT_DATA:
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
            data = stream.read(info.size)
            if len(data) < info.size:
                self._report_rest(
                    f'cannot be read: it was cut inside {info.name}'
                )
                return None
            stream.skip(padding)
            if self._is_sparse:
                blocks = self._extension + block + data + bytes(padding)
                return self._expand_sparse(blocks, info)
            return data
        elif info.type == tarfile.GNUTYPE_SPARSE:
            # a non-zero byte says that another block of the map follows
            blocks, more = block, block[482:483]
            while more.strip(b'\0'):
                blocks += stream.read(BLOCK)
                more = blocks[-8:-7]
            blocks += stream.read(info.size + padding)
            return self._expand_sparse(blocks, info)
        stream.skip(info.size + padding)
        return None

    def _expand_sparse(
        self, blocks: bytes, info: tarfile.TarInfo
    ) -> bytes | None:
        """Return the bytes of a sparse file from the blocks of its member."""
        archive = io.BytesIO(blocks + 2 * _ZERO_BLOCK)
        try:
            with tarfile.open(fileobj=archive) as tar:
                member = tar.next()
                if member is None or member.size > MAX_MEMBER_BYTES:
                    raise ValueError('no sparse file of a valid size')
                info.name = member.name
                file = tar.extractfile(member)
                return file.read() if file else None
        except (tarfile.TarError, ValueError, IndexError, OSError) as error:
            self._report(
                'damaged',
                f'the sparse file {info.name} cannot be read ({error}).',
            )
            return None

    def _read_extension(
        self, info: tarfile.TarInfo, block: bytes
    ) -> tuple[str, int | None] | None:
        """Return name and size of the next member; None if it is damaged."""
        start = self._stream.offset
        if info.size > _MAX_EXTENSION_BYTES:
            self._recover(start, info)
            return None
        data = self._stream.read(info.size)
        self._extension = block + data + bytes(-info.size % BLOCK)
        self._stream.skip(-info.size % BLOCK)
        if info.type == tarfile.GNUTYPE_LONGLINK:
            return '', None
        if info.type == tarfile.GNUTYPE_LONGNAME:
            text = data.partition(b'\0')[0]
            return text.decode('utf-8', 'surrogateescape'), None
        records = _parse_pax_records(data)
        if records is None:
            self._report(
                'damaged', f'pax records at byte {start:,} cannot be read.'
            )
            return '', None
        self._is_sparse = any(key.startswith('GNU.sparse') for key in records)
        size = records.get('size', '')
        is_valid = _PAX_SIZE.fullmatch(size)
        return records.get('path', ''), int(size) if is_valid else None

    def _continues_after_zeros(self, start: int) -> bool:
        """Skip zero blocks; return whether a header follows."""
        stream = self._stream
        stream.skip_zero_blocks()
        head = stream.peek(BLOCK)
        if not head:  # the regular end
            if not self._num_files:
                self._report('damaged', 'it contains no file, only zeros.')
            return False
        if parse_header(head) and stream.offset % _RECORD == 0:
            self._report(
                'joined',
                f'another tar begins at byte {stream.offset:,}: several tar '
                'files were joined; all are read.',
            )
            return True
        return self._recover(start, None, 'zeros before further bytes')

    def _recover(
        self,
        start: int,
        info: tarfile.TarInfo | None,
        reason: str = 'a damaged header',
    ) -> bool:
        """Skip damage; return whether a valid header follows.

        Args:
            start: Offset of the damage.
            info: A valid header whose size is invalid, if there is one.
            reason: The damage, if there is no such header.
        """
        stream = self._stream
        found = stream.find_header(self._size())
        if info:
            reason = (
                f'a header with {info.size:,} bytes'
                if found
                else f'it was cut inside {info.name}'
            )
        skipped = f'{stream.offset - start:,} bytes from byte {start:,} on'
        if found:
            self._report(
                'damaged',
                f'{skipped} cannot be read ({reason}); reading continues '
                'after them.',
            )
        else:
            self._report(
                'damaged',
                f'the rest of a shard is skipped: {skipped} cannot be read '
                f'({reason}); {self._num_files:,} files of it were read.',
            )
        return found


def _parse_pax_records(data: bytes) -> dict[str, str] | None:
    """Parse records ``LENGTH KEY=VALUE\\n``; return None for damaged ones."""
    records = {}
    offset = 0
    data = data.rstrip(b'\0')
    while offset < len(data):
        length, _, _ = data[offset : offset + 20].partition(b' ')
        if not length.isdigit() or not int(length):
            return None
        record = data[offset + len(length) + 1 : offset + int(length) - 1]
        key, equals, value = record.partition(b'=')
        if not equals:
            return None
        records[key.decode('utf-8', 'surrogateescape')] = value.decode(
            'utf-8', 'surrogateescape'
        )
        offset += int(length)
    return records
