# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Render the nano data set: python tools/nano_data.py [--out data/nano]."""

import argparse
import sys
from pathlib import Path

from minigpt4.utils.errors import add_debug_option, reports_errors


@reports_errors
def main() -> None:
    """Render."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', type=Path, default=Path('data/nano'))
    parser.add_argument('--pairs', type=int, default=12000)
    parser.add_argument('--descriptions', type=int, default=3500)
    parser.add_argument('--test-scenes', type=int, default=500)
    parser.add_argument('--preferences', type=int, default=1200)
    parser.add_argument('--seed', type=int, default=0)
    add_debug_option(parser)
    args = parser.parse_args()
    from minigpt4.nano.write_dataset import write_dataset

    write_dataset(
        args.out,
        pairs=args.pairs,
        descriptions=args.descriptions,
        test_scenes=args.test_scenes,
        seed=args.seed,
        preferences=args.preferences,
    )
    print(
        f'{args.pairs} captioned and {args.descriptions} described '
        f'images, {args.preferences} preference pairs, {args.test_scenes} '
        f'held-out scenes are in {args.out}'
    )


if __name__ == '__main__':
    sys.exit(main())
