# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A buffered stream of the bytes of a tar, with a search for headers."""

import tarfile
from collections.abc import Iterable

BLOCK = tarfile.BLOCKSIZE
MAX_MEMBER_BYTES = 1 << 29  # 512 MiB, as for the file of an image
_MAGIC, _MAGIC_OFFSET = b'ustar', 257
# member types that have a header and no data
TYPES_WITHOUT_DATA = (
    tarfile.LNKTYPE,
    tarfile.SYMTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.DIRTYPE,
    tarfile.FIFOTYPE,
)


class TarStream:
    """A buffered stream of bytes.

    Args:
        chunks: The bytes of the stream.

    Attributes:
        offset: Offset of the next byte in the stream.
    """

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._buffer = b''
        self._start = 0  # of the next byte in the buffer
        self.offset = 0

    def _fill(self, size: int) -> int:
        """Buffer ``size`` bytes; return how many are buffered."""
        available = len(self._buffer) - self._start
        if available < size:
            pieces = [self._buffer[self._start :]]
            while available < size:
                chunk = next(self._chunks, b'')
                if not chunk:
                    break
                pieces.append(chunk)
                available += len(chunk)
            self._buffer, self._start = b''.join(pieces), 0
        return available

    def read(self, size: int) -> bytes:
        """Read bytes; fewer at the end of the stream."""
        self._fill(size)
        data = self._buffer[self._start : self._start + size]
        self._advance(len(data))
        return data

    def peek(self, size: int) -> bytes:
        """Return the next bytes without reading them; fewer at the end."""
        self._fill(size)
        return self._buffer[self._start : self._start + size]

    def _advance(self, size: int) -> None:
        self._start += size
        self.offset += size

    def skip(self, size: int) -> int:
        """Skip bytes; return how many were skipped."""
        skipped = 0
        while skipped < size and self._fill(1):
            step = min(size - skipped, len(self._buffer) - self._start)
            self._advance(step)
            skipped += step
        return skipped

    def skip_zero_blocks(self) -> None:
        """Skip blocks of zeros."""
        while True:
            rest = self._buffer[self._start :]
            zeros = len(rest) - len(rest.lstrip(b'\0'))
            self._advance(zeros // BLOCK * BLOCK)
            remaining = len(self._buffer) - self._start
            if zeros < len(rest):
                return
            if self._fill(remaining + 1) == remaining:  # the end
                self._advance(remaining)
                return

    def find_header(self, size: int | None) -> bool:
        """Skip bytes up to the next valid header.

        Args:
            size: Size of the stream in bytes, if known.

        Returns:
            Whether there is a header; if not, the stream is at its end.
        """
        while self._fill(BLOCK) >= BLOCK:
            last = len(self._buffer) - BLOCK
            search = self._start + _MAGIC_OFFSET
            while (found := self._buffer.find(_MAGIC, search)) >= 0:
                start = found - _MAGIC_OFFSET
                if start > last:
                    break
                info = parse_header(self._buffer[start : start + BLOCK])
                offset = self.offset + start - self._start
                if info and data_fits(info, offset + BLOCK, size):
                    self._advance(start - self._start)
                    return True
                search = found + 1
            # a header may begin in the last bytes of the buffer
            self._advance(last + 1 - self._start)
        self.skip(BLOCK)
        return False


def parse_header(block: bytes) -> tarfile.TarInfo | None:
    """Parse the 512 bytes of a header; return None for a damaged one."""
    try:
        return tarfile.TarInfo.frombuf(block, 'utf-8', 'surrogateescape')
    except tarfile.HeaderError:
        return None


def data_fits(info: tarfile.TarInfo, offset: int, size: int | None) -> bool:
    """Return whether the data of a member can be in the tar.

    Args:
        info: The header.
        offset: Offset of the data.
        size: Size of the tar in bytes, if known.
    """
    if info.size < 0:
        return False
    if info.type in TYPES_WITHOUT_DATA:
        return True
    if size is None:
        return info.size <= MAX_MEMBER_BYTES
    return offset + info.size <= size
