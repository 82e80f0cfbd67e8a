# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Make the data of both stages from a folder of photographs with captions.

The object classes of a held-out photograph are those that its captions name.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from minigpt4.utils.errors import add_debug_option, reports_errors


@reports_errors
def main() -> None:
    """Read the folder, divide it and write the data."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument(
        'folder',
        help='photographs with captions*.json (COCO), or with a .txt file '
        'next to each image',
    )
    parser.add_argument('--out', type=Path, default=Path('data/photos'))
    parser.add_argument(
        '--seed', type=int, default=0, help='of the held-out photographs'
    )
    parser.add_argument(
        '--stage2',
        action='store_true',
        help='end with an error if no photograph has a description for '
        'stage 2',
    )
    add_debug_option(parser)
    args = parser.parse_args()
    from minigpt4.datasets.caption_descriptions import MAX_WORDS, MIN_WORDS
    from minigpt4.datasets.photo_folder import describe_skipped, read_photos
    from minigpt4.datasets.write_photos import (
        DESCRIPTIONS_FILE,
        write_photos,
    )
    from minigpt4.evaluation.object_words import coco_words
    from minigpt4.utils.atomic import write_atomically

    photos = write_photos(read_photos(args.folder), args.out, args.seed)
    words = coco_words()
    # the names by which minigpt4 eval chair finds the classes of an image
    objects = {
        photo.name if photo.name.isdigit() else photo.file.stem: sorted(
            {name for text in photo.captions for name in words.find(text)}
        )
        for photo in photos.test
    }
    write_atomically(
        args.out / 'objects_test.json', json.dumps(objects, indent=1).encode()
    )
    files = ''.join(f'{photo.file}\n' for photo in photos.test)
    write_atomically(args.out / 'images_test.txt', os.fsencode(files))
    if photos.skipped:
        print(f'skipped {describe_skipped(photos.skipped)}')
    print(
        f'{len(photos.train)} photographs to train with, '
        f'{sum(len(p.captions) for p in photos.train)} captions, '
        f'{len(photos.test)} held-out photographs are in {args.out}'
    )
    described = json.loads((args.out / DESCRIPTIONS_FILE).read_bytes())
    found = len(described['images'])
    print(f'{found} photographs have a description for stage 2')
    if args.stage2 and not found:
        raise ValueError(
            f'no photograph in {args.folder} has captions that together give '
            f'{MIN_WORDS} to {MAX_WORDS} words, as stage 2 needs; add '
            'captions, or train stage 1 alone (docs/small.md).'
        )


if __name__ == '__main__':
    sys.exit(main())
