# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Read the orientation of an image file and remove all other metadata.

The parser finds the orientation also in EXIF whose other fields are invalid.
All metadata of JPEG and PNG files is removed before they are decoded, so that
no invalid or large field (a rational, a colour profile, compressed text)
prevents the decoding.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from typing import Literal, NamedTuple

from PIL import Image
from torch import Tensor

Order = Literal['little', 'big']
_ORIENTATION = 0x0112
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation\s*(?:=\s*["\']|>)\s*([1-8])')
_TRANSPOSE_METHODS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# type of a TIFF field: bytes of an integer value
_INTEGER_BYTES = {1: 1, 3: 2, 4: 4, 6: 1, 8: 2, 9: 4}
_PIXEL_CHUNKS = (b'IHDR', b'PLTE', b'tRNS', b'IDAT', b'IEND')
# the entry of an Exif item in the item list at the start of the file
_AVIF_EXIF = re.compile(rb'(infe(?:\x02.{7}|\x03.{9}))Exif', re.DOTALL)
_AVIF_HEAD_BYTES = 1 << 16
_NOT_HEX = bytes(set(range(256)) - set(b'0123456789abcdefABCDEF'))
_MAX_TEXT_BYTES = 1 << 20  # of a decompressed text


def transpose(image: Image.Image, orientation: int) -> Image.Image:
    """Apply an orientation to an image.

    Args:
        image: The image as it is stored in the file.
        orientation: The EXIF orientation, 1 to 8.
    """
    method = _TRANSPOSE_METHODS.get(orientation)
    return image if method is None else image.transpose(method)


def transpose_tensor(pixels: Tensor, orientation: int) -> Tensor:
    """Apply an orientation to pixels ``(3, H, W)``; see :func:`transpose`."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 2)
    flips = {2: [2], 3: [1, 2], 4: [1], 6: [2], 7: [1, 2], 8: [1]}
    axes = flips.get(orientation)
    return pixels if axes is None else pixels.flip(axes)


def find_orientation(exif: bytes | None, xmp: 'bytes | str | None') -> int:
    """Find the orientation in EXIF, else in XMP.

    Args:
        exif: A TIFF structure, with or without the prefix ``Exif\\0\\0``. It
            may be truncated, and other fields may be invalid.
        xmp: An XMP packet.

    Returns:
        1 to 8; 1 if no valid orientation is stored.
    """
    if exif:
        while exif.startswith(b'Exif\0\0'):
            exif = exif[6:]
        field = tiff_orientation_field(exif)
        if field:
            return _integer(exif, *field)
    if isinstance(xmp, str):
        xmp = xmp.encode('utf-8', 'replace')
    if xmp and (found := _XMP_ORIENTATION.search(xmp)):
        return int(found[1])
    return 1


def tiff_orientation_field(data: bytes) -> tuple[int, int, Order] | None:
    """Find the orientation, 1 to 8, in the first directory of a TIFF.

    Returns:
        Offset of the value, its size in bytes, and the byte order
        ``'little'`` or ``'big'``; None if there is no valid orientation.
    """
    field = _integer_field(data, _ORIENTATION)
    return field if field and 1 <= _integer(data, *field) <= 8 else None


def tiff_integer(data: bytes, tag: int) -> int | None:
    """Read an integer field of the first directory of a TIFF."""
    field = _integer_field(data, tag)
    return None if field is None else _integer(data, *field)


def _integer_field(data: bytes, tag: int) -> tuple[int, int, Order] | None:
    """Return offset, size and byte order of a field with one integer."""
    for found, kind, count, offset, order in _tiff_fields(data):
        if found == tag and count == 1 and kind in _INTEGER_BYTES:
            return offset, _INTEGER_BYTES[kind], order
    return None


def _integer(data: bytes, offset: int, size: int, order: Order) -> int:
    return int.from_bytes(data[offset : offset + size], order)


def _tiff_fields(data: bytes) -> Iterator[tuple[int, int, int, int, Order]]:
    """Yield tag, type, count, offset of the value, byte order."""
    prefix = {b'II*\0': '<', b'MM\0*': '>'}.get(data[:4])
    if prefix is None or len(data) < 10:
        return
    (directory,) = struct.unpack_from(prefix + 'I', data, 4)
    if directory + 2 > len(data):
        return
    (number,) = struct.unpack_from(prefix + 'H', data, directory)
    order: Order = 'little' if prefix == '<' else 'big'
    first = directory + 2
    for offset in range(first, first + number * 12, 12):
        if offset + 12 > len(data):
            return  # truncated; the earlier fields are valid
        tag, kind, count = struct.unpack_from(prefix + 'HHI', data, offset)
        yield tag, kind, count, offset + 8, order


class Jpeg(NamedTuple):
    """The segments before the first scan of a JPEG.

    Attributes:
        data: The file without EXIF, XMP, colour profile, thumbnails and
            comments. The JFIF and Adobe segments, which determine the colour
            space, remain.
        orientation: 1 to 8.
        marker: Marker of the frame, 0xC0 to 0xCF, which names the coding.
        bits: Bits per sample.
        height: Height in pixels, as stored.
        width: Width in pixels, as stored.
    """

    data: bytes
    orientation: int
    marker: int
    bits: int
    height: int
    width: int


def split_jpeg(data: bytes) -> Jpeg | None:
    """Remove the metadata of a JPEG.

    Returns:
        None if the data is not a JPEG or its segments cannot be parsed.
    """
    if data[:2] != b'\xff\xd8':
        return None
    parts = [b'\xff\xd8']
    exif, xmp = b'', b''
    frame: tuple[int, int, int, int] | None = None
    offset = 2
    while True:
        while data[offset : offset + 2] == b'\xff\xff':
            offset += 1  # fill bytes
        if data[offset : offset + 1] != b'\xff' or offset + 4 > len(data):
            return None
        marker = data[offset + 1]
        if marker == 0xDA:  # the scan
            break
        if marker == 0x01 or 0xD0 <= marker <= 0xD9:
            return None
        end = offset + 2 + int.from_bytes(data[offset + 2 : offset + 4], 'big')
        body = data[offset + 4 : end]
        if marker == 0xE1 and body.startswith(b'Exif\0'):
            exif += body[6:] if exif else body
        elif marker == 0xE1 and body.startswith(b'http://ns.adobe.com/xap/'):
            xmp = xmp or body
        # frame headers are 0xC0 to 0xCF except the tables DHT, JPG and DAC
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if frame is not None or len(body) < 6:
                return None
            frame = (marker, *struct.unpack_from('>BHH', body))
        if not (0xE0 <= marker <= 0xEF or marker == 0xFE) or (
            # libjpeg ignores segments of other lengths
            (marker == 0xE0 and body[:5] == b'JFIF\0' and len(body) >= 14)
            or (marker == 0xEE and body[:5] == b'Adobe' and len(body) >= 12)
        ):
            parts.append(data[offset:end])
        offset = end
    if frame is None:
        return None
    parts.append(data[offset:])
    return Jpeg(b''.join(parts), find_orientation(exif, xmp), *frame)


def split_png(data: bytes) -> tuple[bytes, int]:
    """Split a PNG into the chunks of its pixels and its orientation.

    The colour profile, texts and the later frames of an animation are
    removed. Only texts that may contain the orientation are decompressed, and
    at most 1 MiB of each.

    Returns:
        The file without metadata, and the orientation, 1 to 8.
    """
    parts = [data[:8]]
    exif, xmp = b'', b''
    offset = 8
    while offset + 8 <= len(data):
        end = offset + 12 + int.from_bytes(data[offset : offset + 4], 'big')
        kind, body = data[offset + 4 : offset + 8], slice(offset + 8, end - 4)
        if kind in _PIXEL_CHUNKS:
            parts.append(data[offset:end])
        elif kind == b'eXIf':
            exif = exif or data[body]
        elif kind == b'iTXt' and data.startswith(
            b'XML:com.adobe.xmp', offset + 8
        ):
            xmp = xmp or _international_text(data[body])
        elif kind in (b'zTXt', b'tEXt') and data.startswith(
            b'Raw profile type ', offset + 8
        ):
            exif = exif or _raw_exif(kind, data[body])
        offset = end
        if kind == b'IEND':
            break
    else:
        parts.append(data[offset:])  # truncated: the decoder reports it
    return b''.join(parts), find_orientation(exif, xmp)


def without_avif_exif(data: bytes) -> bytes:
    """Hide the EXIF of an AVIF from the decoder.

    It is not needed: AVIF stores the orientation as an image property.
    """
    head = data[:_AVIF_HEAD_BYTES]
    changed = _AVIF_EXIF.sub(rb'\1free', head)
    return data if changed == head else changed + data[_AVIF_HEAD_BYTES:]


def _inflate(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, _MAX_TEXT_BYTES)
    except zlib.error:
        return b''


def _international_text(body: bytes) -> bytes:
    _, _, rest = body.partition(b'\0')
    compressed = rest[:1] == b'\1'
    text = rest[2:].partition(b'\0')[2].partition(b'\0')[2]
    return _inflate(text) if compressed else text


def _raw_exif(kind: bytes, body: bytes) -> bytes:
    name, _, text = body.partition(b'\0')
    if name not in (b'Raw profile type exif', b'Raw profile type APP1'):
        return b''
    return parse_raw_profile(_inflate(text[1:]) if kind == b'zTXt' else text)


def parse_raw_profile(text: bytes) -> bytes:
    """Parse EXIF as ImageMagick writes it: lines of hexadecimal digits."""
    lines = text.strip(b'\n').split(b'\n', 2)
    digits = lines[-1][: 1 << 18].translate(None, _NOT_HEX)
    return bytes.fromhex(digits[: len(digits) // 2 * 2].decode())
