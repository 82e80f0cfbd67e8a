# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Show the results of the quickstart: a table, an image, an HTML page."""

import argparse
import json
import sys
from pathlib import Path

from minigpt4_cli.openmp import limit_spinning

limit_spinning()

from minigpt4.utils.errors import add_debug_option, reports_errors


@reports_errors
def main() -> None:
    """Caption held-out scenes and print the scores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--data', type=Path, default=Path('data/nano'))
    parser.add_argument('--stage1', required=True, help='checkpoint')
    parser.add_argument('--stage2', required=True, help='checkpoint')
    parser.add_argument('--scores1', type=Path, required=True)
    parser.add_argument('--scores2', type=Path, required=True)
    parser.add_argument('--out', type=Path, required=True)
    add_debug_option(parser)
    args = parser.parse_args()
    import minigpt4  # noqa: F401  registers the nano model
    from minigpt4.nano.gallery import show_table, write_gallery

    files = write_gallery(args.data, args.stage1, args.stage2, args.out)
    show_table(
        *(
            json.loads(path.read_text())
            for path in (args.scores1, args.scores2)
        )
    )
    print('gallery: ' + ', '.join(map(str, files)))


if __name__ == '__main__':
    sys.exit(main())
