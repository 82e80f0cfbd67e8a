# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Describe a file that cannot be read as an image, by its first bytes."""

import importlib
import importlib.util
import re

from PIL import features

from ..utils.file_types import archive_format, unexpected_content

_HEIC_BRANDS = (
    b'heic', b'heix', b'heim', b'heis', b'hevc', b'hevx', b'hevm', b'hevs',
    b'mif1', b'mif2', b'msf1', b'miaf',
)  # fmt: skip
_CONVERT = 'convert it to JPEG or PNG'
_RAW = 'develop it to JPEG or PNG with a raw converter'
_VIDEO = 'save a frame of it as JPEG or PNG'
_DOCUMENT = 'export the page as PNG'
_DOWNLOAD = 'the download failed; download the image again'
_AGAIN = 'copy or download it again'
_GIVE = 'give a JPEG, PNG or WebP file'

# the first bytes of a file, its kind, what to do
_SIGNATURES = (
    (b'%PDF', 'a PDF document', _DOCUMENT),
    (b'%!PS', 'an EPS or PostScript document', _DOCUMENT),
    (b'\xc5\xd0\xd3\xc6', 'an EPS document', _DOCUMENT),
    (b'\xff\x0a', 'a JPEG XL image', _CONVERT),
    (b'\0\0\0\x0cJXL ', 'a JPEG XL image', _CONVERT),
    (b'II\xbc', 'a JPEG XR image', _CONVERT),
    (b'BPG\xfb', 'a BPG image', _CONVERT),
    (b'v/1\x01', 'an OpenEXR image', _CONVERT),
    (b'#?RADIANCE', 'a Radiance HDR image', _CONVERT),
    (b'#?RGBE', 'a Radiance HDR image', _CONVERT),
    (b'gimp xcf', 'a GIMP project', _CONVERT),
    (b'AT&TFORM', 'a DjVu document', _DOCUMENT),
    (b'\xd7\xcd\xc6\x9a', 'a Windows metafile', _CONVERT),
    (b'8BPS', 'a Photoshop file of a kind that Pillow does not read',
     _CONVERT),
    (b'FUJIFILMCCD-RAW', 'a camera RAW file (Fujifilm RAF)', _RAW),
    (b'IIU\0', 'a camera RAW file (Panasonic RW2)', _RAW),
    (b'IIRO', 'a camera RAW file (Olympus ORF)', _RAW),
    (b'IIRS', 'a camera RAW file (Olympus ORF)', _RAW),
    (b'MMOR', 'a camera RAW file (Olympus ORF)', _RAW),
    (b'FOVb', 'a camera RAW file (Sigma X3F)', _RAW),
    (b'\0MRM', 'a camera RAW file (Minolta MRW)', _RAW),
    (b'\x1aE\xdf\xa3', 'a Matroska or WebM video', _VIDEO),
    (b'FLV\x01', 'a Flash video', _VIDEO),
    (b'\0\0\x01\xba', 'an MPEG video', _VIDEO),
    (b'\0\0\x01\xb3', 'an MPEG video', _VIDEO),
    (b'OggS', 'an Ogg file', _VIDEO),
    (b'\x93NUMPY', 'a NumPy file', 'load it and give the array'),
    (b'\x89HDF', 'an HDF5 file', _GIVE),
    (b'GRIB', 'a GRIB file', _GIVE),
    (b'BUFR', 'a BUFR file', _GIVE),
    (b'\xff\xd8', 'a damaged JPEG image', _AGAIN),
    (b'\x89PNG', 'a damaged PNG image', _AGAIN),
    (b'GIF8', 'a damaged GIF image', _AGAIN),
    (b'\0\0\0\x0cjP  ', 'a damaged JPEG 2000 image',
     _AGAIN),
    (b'BM', 'a BMP image of a kind that Pillow does not read', _CONVERT),
    (b'\0\0\1\0', 'a damaged icon', _CONVERT),
    (b'II*\0', 'a TIFF image of a kind that Pillow does not read', _CONVERT),
    (b'MM\0*', 'a TIFF image of a kind that Pillow does not read', _CONVERT),
    (b'II+\0', 'a TIFF image of a kind that Pillow does not read', _CONVERT),
    (b'MM\0+', 'a TIFF image of a kind that Pillow does not read', _CONVERT),
)  # fmt: skip

_CONTENTS = {
    'empty': ('an empty file (0 bytes)', _GIVE),
    'LFS pointer': (
        'a Git LFS pointer, not the image itself',
        'download the image with: git lfs pull',
    ),
    'HTML': ('an HTML page', _DOWNLOAD),
    'zeros': ('a file of zero bytes', _AGAIN),
}


def is_avif(data: bytes) -> bool:
    """Return whether a file is AVIF, by its file type box."""
    if data[4:8] != b'ftyp':
        return False
    brands = data[8 : _box_end(data)]
    return b'avif' in brands or b'avis' in brands


def is_heic(data: bytes) -> bool:
    """Return whether a file is HEIC or HEIF and not AVIF."""
    return (
        data[4:8] == b'ftyp'
        and data[8:12] in _HEIC_BRANDS
        and not is_avif(data)
    )


def register_heic() -> bool:
    """Enable HEIC in Pillow if the package pillow-heif is installed.

    Returns:
        Whether it is installed.
    """
    if importlib.util.find_spec('pillow_heif') is None:
        return False
    importlib.import_module('pillow_heif').register_heif_opener()
    return True


def _box_end(data: bytes) -> int:
    """Return the end of the first ISO media box, at most 128 bytes."""
    return min(int.from_bytes(data[:4], 'big'), 128)


def describe_format(data: bytes) -> tuple[str, str]:
    """Describe a file that is not a readable image.

    Args:
        data: The file, or at least its first 1,024 bytes.

    Returns:
        The kind of the file, e.g. ``'a PDF document'``, and what to do.
    """
    if found := _CONTENTS.get(unexpected_content(data[:65536]) or ''):
        return found
    if data[4:8] == b'ftyp':
        return _iso_media(data)
    if data[:4] == b'RIFF':
        return _riff(data)
    if data[8:10] == b'CR' and data[:4] == b'II*\0':
        return 'a camera RAW file (Canon CR2)', _RAW
    if data[128:132] == b'DICM':
        return 'a DICOM file', _CONVERT
    for signature, kind, advice in _SIGNATURES:
        if data.startswith(signature):
            return kind, advice
    if archive := archive_format(data):
        return f'a {archive} archive', 'unpack it'
    return _text(data[:4096])


def _iso_media(data: bytes) -> tuple[str, str]:
    brand = data[8:12]
    if is_avif(data):
        if features.check('avif'):
            return 'a damaged AVIF image', _AGAIN
        return 'an AVIF image, which needs Pillow 11.3 or newer', (
            f'update Pillow, or {_CONVERT}'
        )
    if brand in _HEIC_BRANDS:
        if importlib.util.find_spec('pillow_heif') is not None:
            return 'a damaged HEIC image', _AGAIN
        return 'a HEIC image', (f'install pillow-heif, or {_CONVERT}')
    if brand == b'crx ':
        return 'a camera RAW file (Canon CR3)', _RAW
    return 'an MP4 or QuickTime video', _VIDEO


def _riff(data: bytes) -> tuple[str, str]:
    kind = data[8:12]
    if kind == b'WEBP':
        return 'a damaged WebP image', _AGAIN
    if kind == b'AVI ':
        return 'an AVI video', _VIDEO
    return 'a RIFF file, e.g. sound', _GIVE


def _text(head: bytes) -> tuple[str, str]:
    text = head.decode('utf-8', 'replace').lstrip('\ufeff \t\r\n').lower()
    if '<svg' in text and text.startswith('<'):
        return 'an SVG drawing', 'export it as PNG'
    if text.startswith('<'):
        return 'an XML document', _DOWNLOAD
    if re.match(r'[{\[]\s*(["{\[\]}]|-?\d)', text):
        return 'a JSON document', _DOWNLOAD
    if re.match(r'data:image/', text):
        return 'a data URL', 'decode it to a file first'
    if text and '\ufffd' not in text[:-3] and '\0' not in text:
        return 'a text file', _GIVE
    kind = f'no image format that Pillow reads (it begins with {head[:8]!r})'
    return kind, _GIVE
