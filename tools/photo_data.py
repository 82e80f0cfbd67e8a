# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Make the data of both stages from a folder of photographs with captions.

The object classes of a held-out photograph are those that its captions name.
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

from minigpt4.utils.errors import (
    add_debug_option,
    printable,
    reports_errors,
)


@reports_errors
def main() -> None:
    """Read the folder, divide it and write the data."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument(
        'folder',
        help='photographs with captions*.json (COCO), with a .txt file next '
        'to each image, or both',
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
    from minigpt4.datasets.photo_folder import read_photos
    from minigpt4.datasets.readable_photos import keep_readable
    from minigpt4.datasets.skip_summary import counted
    from minigpt4.datasets.write_photos import (
        DESCRIPTIONS_FILE,
        write_photos,
    )
    from minigpt4.evaluation.object_words import coco_words
    from minigpt4.utils.atomic import write_atomically

    found = keep_readable(read_photos(args.folder))
    for line in found.skipped.lines():
        print(f'skipped {line}')
    sources = Counter(
        source
        for photo in (*found.train, *found.test)
        for source in photo.sources
    )
    if len(sources) > 1:
        for source, number in sources.items():
            print(
                f'{counted(number, "photograph")} with captions from '
                f'{printable(source)}'
            )
    photos = write_photos(found, args.out, args.seed)
    drawn = len(photos.test) - len(found.test)
    if found.test and drawn:
        print(
            f'{counted(len(found.test), "photograph")} named as held-out, '
            f'too few for "minigpt4 eval match"; drew {drawn} more'
        )
    words = coco_words()
    objects = {
        str(photo.file): sorted(
            {name for text in photo.captions for name in words.find(text)}
        )
        for photo in photos.test
    }
    write_atomically(
        args.out / 'objects_test.json', json.dumps(objects, indent=1).encode()
    )
    files = ''.join(f'{photo.file}\n' for photo in photos.test)
    write_atomically(args.out / 'images_test.txt', files.encode())
    num_captions = sum(len(photo.captions) for photo in photos.train)
    print(
        f'{counted(len(photos.train), "photograph")} to train with, '
        f'{counted(num_captions, "caption")}, '
        f'{counted(len(photos.test), "held-out photograph")} are in {args.out}'
    )
    described = json.loads((args.out / DESCRIPTIONS_FILE).read_bytes())
    number = len(described['images'])
    verb = 'has' if number == 1 else 'have'
    print(f'{counted(number, "photograph")} {verb} a description for stage 2')
    if args.stage2 and not number:
        raise ValueError(
            f'no photograph in {args.folder} has captions that together give '
            f'{MIN_WORDS} to {MAX_WORDS} words, as stage 2 needs; add '
            'captions, or train stage 1 alone (docs/small.md).'
        )


if __name__ == '__main__':
    sys.exit(main())
