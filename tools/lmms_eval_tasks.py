# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Write tasks of lmms-eval about photographs on this computer.

    python tools/lmms_eval_tasks.py photos --objects objects.json --out tasks
    lmms-eval --include_path tasks --tasks photos_caption --model minigpt4

See docs/evaluation.md.
"""

import argparse
import sys
from pathlib import Path

from minigpt4.utils.errors import add_debug_option, reports_errors


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description='Write tasks for --include_path of lmms-eval: captions '
        'and questions with yes or no about photographs.'
    )
    parser.add_argument('photos', type=Path, help='the folder of photographs')
    parser.add_argument(
        '--objects',
        type=Path,
        help='object classes of each image, {"139": ["chair", "tv"]}, for '
        'captions and questions of our own',
    )
    parser.add_argument(
        '--pope',
        type=Path,
        nargs='+',
        default=[],
        metavar='FILE',
        help='files of POPE; questions about missing images are omitted',
    )
    parser.add_argument(
        '--prompt',
        default='',
        help="the question for captions (default: the model's own)",
    )
    parser.add_argument(
        '--limit', type=int, help='the first N photographs by name'
    )
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--out', type=Path, required=True)
    add_debug_option(parser)
    args = parser.parse_args(argv)
    if args.objects is None and not args.pope:
        parser.error('give --objects FILE, --pope FILE, or both')
    if args.limit is not None and args.limit < 1:
        parser.error(f'--limit is {args.limit}; expected at least 1')
    return args


@reports_errors
def main(argv: list[str] | None = None) -> None:
    """Write the tasks."""
    args = parse_args(argv)
    from minigpt4.evaluation.chair_run import read_truth
    from minigpt4.harness import task_files

    photos = task_files.find_photos(args.photos.absolute())
    photos = photos[: args.limit]
    tasks = []
    if args.objects is not None:
        truth = read_truth(args.objects)
        tasks += [
            task_files.caption_task(photos, truth, args.prompt),
            *task_files.yes_no_tasks(photos, truth, args.seed),
        ]
    tasks += [task_files.pope_task(file, photos) for file in args.pope]
    task_files.write_tasks(args.out, tasks)
    for task in tasks:
        print(f'{task.name}: {len(task.documents)} documents')


if __name__ == '__main__':
    sys.exit(main())
