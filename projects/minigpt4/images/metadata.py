# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The metadata of an image file that its pixels need: the orientation.

Only the orientation counts here. It is read by a parser that accepts EXIF
whose other fields are broken, and all other metadata of JPEG and PNG files
is removed before they are decoded, so that no field of it (a broken
rational, a large colour profile, compressed text) refuses the image.
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
_METHODS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# of an integer TIFF field type: bytes of a value
_INTEGERS = {1: 1, 3: 2, 4: 4, 6: 1, 8: 2, 9: 4}
_PIXEL_CHUNKS = (b'IHDR', b'PLTE', b'tRNS', b'IDAT', b'IEND')
# the entry of an item of type Exif, in the list at the beginning of the file
_AVIF_EXIF = re.compile(rb'(infe(?:\x02.{7}|\x03.{9}))Exif', re.DOTALL)
_AVIF_HEAD = 1 << 16
_NO_DIGITS = bytes(set(range(256)) - set(b'0123456789abcdefABCDEF'))
_MAX_TEXT = 1 << 20  # bytes of a decompressed text that are looked at


def transpose(image: Image.Image, orientation: int) -> Image.Image:
    """Turn an image upright.

    Args:
        image: As it is stored.
        orientation: The EXIF orientation, 1 to 8.
    """
    method = _METHODS.get(orientation)
    return image if method is None else image.transpose(method)


def transpose_tensor(pixels: Tensor, orientation: int) -> Tensor:
    """Turn pixels ``(3, H, W)`` upright, as :func:`transpose` does."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 2)
    flips = {2: [2], 3: [1, 2], 4: [1], 6: [2], 7: [1, 2], 8: [1]}
    axes = flips.get(orientation)
    return pixels if axes is None else pixels.flip(axes)


def orientation_of(exif: bytes | None, xmp: 'bytes | str | None') -> int:
    """Find the orientation in EXIF, else in XMP.

    Args:
        exif: A TIFF structure, with or without ``Exif\\0\\0`` before it. It
            may be cut, and other fields may be broken.
        xmp: An XMP packet.

    Returns:
        1 to 8; 1 where none is stored, or none of 1 to 8.
    """
    if exif:
        while exif.startswith(b'Exif\0\0'):
            exif = exif[6:]
        at = tiff_orientation_at(exif)
        if at:
            return _integer(exif, *at)
    if isinstance(xmp, str):
        xmp = xmp.encode('utf-8', 'replace')
    if xmp and (found := _XMP_ORIENTATION.search(xmp)):
        return int(found[1])
    return 1


def tiff_orientation_at(data: bytes) -> tuple[int, int, Order] | None:
    """Find the orientation, 1 to 8, in the first directory of a TIFF.

    Returns:
        Offset and bytes of the value, and the byte order ``'little'`` or
        ``'big'``; None where there is none.
    """
    for tag, kind, count, at, order in _tiff_fields(data):
        if tag == _ORIENTATION and count == 1 and kind in _INTEGERS:
            place = at, _INTEGERS[kind], order
            return place if 1 <= _integer(data, *place) <= 8 else None
    return None


def tiff_integer(data: bytes, wanted: int) -> int | None:
    """Give an integer field of the first directory of a TIFF."""
    for tag, kind, count, at, order in _tiff_fields(data):
        if tag == wanted and count == 1 and kind in _INTEGERS:
            return _integer(data, at, _INTEGERS[kind], order)
    return None


def _integer(data: bytes, at: int, size: int, order: Order) -> int:
    return int.from_bytes(data[at : at + size], order)


def _tiff_fields(data: bytes) -> Iterator[tuple[int, int, int, int, Order]]:
    """Tag, type, count, offset of the value field, byte order."""
    order = {b'II*\0': '<', b'MM\0*': '>'}.get(data[:4])
    if order is None or len(data) < 10:
        return
    (at,) = struct.unpack_from(order + 'I', data, 4)
    if at + 2 > len(data):
        return
    (number,) = struct.unpack_from(order + 'H', data, at)
    name: Order = 'little' if order == '<' else 'big'
    for field in range(at + 2, at + 2 + number * 12, 12):
        if field + 12 > len(data):
            return  # it was cut; what came before holds
        tag, kind, count = struct.unpack_from(order + 'HHI', data, field)
        yield tag, kind, count, field + 8, name


class Jpeg(NamedTuple):
    """Read the segments before the first scan of a JPEG.

    Attributes:
        data: The file without EXIF, XMP, colour profile, thumbnails and
            comments. JFIF and Adobe segments, which decide over the colours,
            stay.
        orientation: 1 to 8.
        marker: Of the frame, 0xC0 to 0xCF, which names the coding.
        bits: Of a sample.
        height: In pixels.
        width: In pixels.
    """

    data: bytes
    orientation: int
    marker: int
    bits: int
    height: int
    width: int


def split_jpeg(data: bytes) -> Jpeg | None:
    """Take the metadata of a JPEG away.

    Returns:
        None where the data is not a JPEG or its segments cannot be followed.
    """
    if data[:2] != b'\xff\xd8':
        return None
    kept = [b'\xff\xd8']
    exif, xmp = b'', b''
    frame: tuple[int, int, int, int] | None = None
    at = 2
    while True:
        while data[at : at + 2] == b'\xff\xff':
            at += 1  # fill bytes
        if data[at : at + 1] != b'\xff' or at + 4 > len(data):
            return None
        marker = data[at + 1]
        if marker == 0xDA:  # the scan
            break
        if marker == 0x01 or 0xD0 <= marker <= 0xD9:
            return None
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], 'big')
        body = data[at + 4 : end]
        if marker == 0xE1 and body.startswith(b'Exif\0'):
            exif += body[6:] if exif else body
        elif marker == 0xE1 and body.startswith(b'http://ns.adobe.com/xap/'):
            xmp = xmp or body
        # the frame headers are 0xC0 to 0xCF without the tables DHT, JPG, DAC
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if frame is not None or len(body) < 6:
                return None
            frame = (marker, *struct.unpack_from('>BHH', body))
        if not (0xE0 <= marker <= 0xEF or marker == 0xFE) or (
            # those of other lengths are ignored by libjpeg
            (marker == 0xE0 and body[:5] == b'JFIF\0' and len(body) >= 14)
            or (marker == 0xEE and body[:5] == b'Adobe' and len(body) >= 12)
        ):
            kept.append(data[at:end])
        at = end
    if frame is None:
        return None
    kept.append(data[at:])
    return Jpeg(b''.join(kept), orientation_of(exif, xmp), *frame)


def split_png(data: bytes) -> tuple[bytes, int]:
    """Split a PNG into the chunks of its pixels and its orientation.

    The colour profile, text and the later frames of an animation are left
    out. At most 1 MiB of a compressed text is decompressed, and only of one
    that may hold the orientation.
    """
    kept = [data[:8]]
    exif, xmp = b'', b''
    at = 8
    while at + 8 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], 'big')
        kind, body = data[at + 4 : at + 8], slice(at + 8, end - 4)
        if kind in _PIXEL_CHUNKS:
            kept.append(data[at:end])
        elif kind == b'eXIf':
            exif = exif or data[body]
        elif kind == b'iTXt' and data.startswith(b'XML:com.adobe.xmp', at + 8):
            xmp = xmp or _international_text(data[body])
        elif kind in (b'zTXt', b'tEXt') and data.startswith(
            b'Raw profile type ', at + 8
        ):
            exif = exif or _raw_exif(kind, data[body])
        at = end
        if kind == b'IEND':
            break
    else:
        kept.append(data[at:])  # truncated: the decoder reports it
    return b''.join(kept), orientation_of(exif, xmp)


def without_avif_exif(data: bytes) -> bytes:
    """Let a decoder not find the EXIF of an AVIF.

    It is not needed: the orientation is a property of the image there.
    """
    head = data[:_AVIF_HEAD]
    changed = _AVIF_EXIF.sub(rb'\1free', head)
    return data if changed == head else changed + data[_AVIF_HEAD:]


def _inflate(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, _MAX_TEXT)
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
    return raw_profile(_inflate(text[1:]) if kind == b'zTXt' else text)


def raw_profile(text: bytes) -> bytes:
    """EXIF from what ImageMagick writes: lines of hexadecimal digits."""
    lines = text.strip(b'\n').split(b'\n', 2)
    digits = lines[-1][: 1 << 18].translate(None, _NO_DIGITS)
    return bytes.fromhex(digits[: len(digits) // 2 * 2].decode())
