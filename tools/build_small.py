# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Store a trained projection of the small model in the package.

python tools/build_small.py work_dirs/stage2_small/iter_200.pth
"""

import argparse
import sys
from pathlib import Path

from minigpt4.utils.errors import add_debug_option, reports_errors

OUT = Path('projects/minigpt4/small/weights/minigpt4_small.pth')


@reports_errors
def main() -> None:
    """Write the trained weights in half precision, without the optimizer."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('checkpoint', help='of stage 2')
    parser.add_argument('--out', type=Path, default=OUT)
    add_debug_option(parser)
    args = parser.parse_args()
    import torch

    from minigpt4.utils.atomic import replacing
    from minigpt4.weights.checkpoint_files import read_checkpoint

    state = read_checkpoint(Path(args.checkpoint), 'cpu')['state_dict']
    halves = {
        name: value.half() if value.is_floating_point() else value
        for name, value in state.items()
    }
    with replacing(args.out) as temporary:
        torch.save(dict(state_dict=halves), temporary)
    print(f'{args.out}: {args.out.stat().st_size:,} bytes')


if __name__ == '__main__':
    sys.exit(main())
