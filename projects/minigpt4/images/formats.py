# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The image formats that are accepted.

A file that the user names is read in any format of Pillow, and HEIC or AVIF
where a library for it is installed; see :mod:`~minigpt4.images.read`.
"""

# Pillow's decoders for images in HTTP requests; others run programs (EPS) or
# are rare
REQUEST_FORMATS = ('BMP', 'GIF', 'JPEG', 'PNG', 'TIFF', 'WEBP')

# Suffixes by which images are found in folders, the most common first: the
# order in which a name without a suffix is tried.
SUFFIXES = (
    *('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.gif', '.tif', '.tiff'),
    *('.jfif', '.avif', '.heic', '.heif', '.jp2', '.jpe', '.pgm', '.pnm'),
    *('.ppm', '.tga'),
)
