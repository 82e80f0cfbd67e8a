# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Make the data of both stages from a folder of photographs with captions."""

import argparse
import sys
from pathlib import Path

from minigpt4.utils.errors import add_debug_option, reports_errors


@reports_errors
def main() -> None:
    """Read the folder, divide it and write the data."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'folder',
        help='photographs with captions*.json (COCO), or with a .txt file '
        'next to each image',
    )
    parser.add_argument('--out', type=Path, default=Path('data/photos'))
    parser.add_argument(
        '--seed', type=int, default=0, help='of the held-out photographs'
    )
    add_debug_option(parser)
    args = parser.parse_args()
    from minigpt4.datasets.photo_folder import describe_skipped, read_photos
    from minigpt4.datasets.write_photos import write_photos

    photos = write_photos(read_photos(args.folder), args.out, args.seed)
    if photos.skipped:
        print(f'skipped {describe_skipped(photos.skipped)}')
    print(
        f'{len(photos.train)} photographs to train with, '
        f'{sum(len(p.captions) for p in photos.train)} captions, '
        f'{len(photos.test)} held-out photographs are in {args.out}'
    )


if __name__ == '__main__':
    sys.exit(main())
