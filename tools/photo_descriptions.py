# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Make descriptions for stage 2 from several captions of each image.

    python tools/photo_descriptions.py captions.json --objects objects.json \
        --out filter_cap.json

See minigpt4.datasets.caption_descriptions for the rules.
"""

import argparse
import json
import sys
from pathlib import Path

from minigpt4.utils.errors import add_debug_option, reports_errors


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description='Join the captions of each image to one description of '
        '50 to 120 words, in the layout of stage 2.'
    )
    parser.add_argument(
        'captions', type=Path, help='captions_*.json of COCO, or another file'
    )
    parser.add_argument(
        '--objects',
        type=Path,
        help='object classes of each image: {"139": ["chair", "tv"]}',
    )
    parser.add_argument('--out', type=Path, required=True)
    add_debug_option(parser)
    return parser.parse_args(argv)


@reports_errors
def main(argv: list[str] | None = None) -> None:
    """Write the descriptions."""
    args = parse_args(argv)
    from minigpt4.datasets.caption_descriptions import describe
    from minigpt4.evaluation.captioned_images import read_references
    from minigpt4.evaluation.chair_run import read_truth
    from minigpt4.evaluation.object_words import coco_words
    from minigpt4.images.image_ids import ImageIds
    from minigpt4.utils.atomic import write_atomically

    objects = read_truth(args.objects) if args.objects else {}
    captions = read_references(args.captions)
    ids = ImageIds(objects)
    annotations = []
    for name in sorted(captions):
        key = ids.find(name)
        classes = [] if key is None else objects[key]
        text = describe(captions[name], classes, coco_words().find)
        if text is not None:
            annotations.append(dict(image_id=name, caption=text))
    if not annotations:
        raise ValueError(
            f'{args.captions} has no image whose captions give 50 words; '
            'expected several captions of each image.'
        )
    content = json.dumps(dict(annotations=annotations), indent=1)
    write_atomically(args.out, content.encode())
    print(
        f'{len(annotations):,} descriptions of {len(captions):,} images: '
        f'{args.out}'
    )


if __name__ == '__main__':
    sys.exit(main())
