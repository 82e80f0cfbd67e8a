# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The bytes of a tar: taken in order, searched for the next header."""

import tarfile
from collections.abc import Iterable

BLOCK = tarfile.BLOCKSIZE
MAX_MEMBER_BYTES = 1 << 29  # 512 MiB, as for the file of an image
_MAGIC, _MAGIC_AT = b'ustar', 257
# Type flags whose header has no data behind it
NO_DATA = (
    tarfile.LNKTYPE,
    tarfile.SYMTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.DIRTYPE,
    tarfile.FIFOTYPE,
)


class TarStream:
    """A stream of bytes, of which a part is in memory.

    Attributes:
        offset: Of the next byte, in the stream.
    """

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._data = b''
        self._at = 0
        self.offset = 0

    def _fill(self, size: int) -> int:
        """Have ``size`` bytes in memory; returns how many there are."""
        there = len(self._data) - self._at
        if there < size:
            parts = [self._data[self._at :]]
            while there < size:
                chunk = next(self._chunks, b'')
                if not chunk:
                    break
                parts.append(chunk)
                there += len(chunk)
            self._data, self._at = b''.join(parts), 0
        return there

    def take(self, size: int) -> bytes:
        """The next bytes; fewer at the end of the stream."""
        self._fill(size)
        data = self._data[self._at : self._at + size]
        self._move(len(data))
        return data

    def peek(self, size: int) -> bytes:
        """The next bytes, which stay; fewer at the end of the stream."""
        self._fill(size)
        return self._data[self._at : self._at + size]

    def _move(self, size: int) -> None:
        self._at += size
        self.offset += size

    def skip(self, size: int) -> int:
        """Skip bytes; returns how many there were."""
        passed = 0
        while passed < size and self._fill(1):
            step = min(size - passed, len(self._data) - self._at)
            self._move(step)
            passed += step
        return passed

    def skip_zero_blocks(self) -> None:
        """Skip blocks of zeros."""
        while True:
            rest = self._data[self._at :]
            zeros = len(rest) - len(rest.lstrip(b'\0'))
            self._move(zeros // BLOCK * BLOCK)
            left = len(self._data) - self._at
            if zeros < len(rest):
                return
            if self._fill(left + 1) == left:  # the end
                self._move(left)
                return

    def find_header(self, most: int | None) -> bool:
        """Skip bytes up to the next valid header.

        Args:
            most: Bytes of the stream, where known.

        Returns:
            Whether there is one; else the stream is at its end.
        """
        while self._fill(BLOCK) >= BLOCK:
            last = len(self._data) - BLOCK
            search = self._at + _MAGIC_AT
            while (found := self._data.find(_MAGIC, search)) >= 0:
                start = found - _MAGIC_AT
                if start > last:
                    break
                info = parse_header(self._data[start : start + BLOCK])
                offset = self.offset + start - self._at
                if info and fits(info, offset + BLOCK, most):
                    self._move(start - self._at)
                    return True
                search = found + 1
            # a header may begin in the last bytes
            self._move(last + 1 - self._at)
        self.skip(BLOCK)
        return False


def parse_header(block: bytes) -> tarfile.TarInfo | None:
    """A header from its 512 bytes; None where it is damaged."""
    try:
        return tarfile.TarInfo.frombuf(block, 'utf-8', 'surrogateescape')
    except tarfile.HeaderError:
        return None


def fits(info: tarfile.TarInfo, offset: int, most: int | None) -> bool:
    """Whether the data of a member can be in the tar.

    Args:
        info: The header.
        offset: Where its data begins.
        most: Bytes of the tar, where known.
    """
    if info.size < 0:
        return False
    if info.type in NO_DATA:
        return True
    if most is None:
        return info.size <= MAX_MEMBER_BYTES
    return offset + info.size <= most
