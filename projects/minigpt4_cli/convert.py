# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 convert``: weights of others in, our weights out."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from minigpt4.convert.files import FILES, convert
from minigpt4.convert.huggingface_export import export_huggingface
from minigpt4.convert.huggingface_import import import_huggingface
from minigpt4.convert.vicuna import merge_delta
from minigpt4.utils.errors import add_debug_option, printable, reports_errors
from minigpt4.utils.signals import raise_on_signals

TARGETS = ('ours', 'official', 'mmpretrain', 'huggingface')
_EXAMPLES = """\
examples:
  minigpt4 convert eva_vit_g.pth -o eva_vit.safetensors
  minigpt4 convert prerained_minigpt4_7b.pth -o minigpt4_7b.pth --llm LLM
  minigpt4 convert BLIP2_FOLDER -o weights
  minigpt4 convert iter_400.pth -o minigpt4_7b.pth --to official
  minigpt4 convert minigpt-4_vicuna-7b_caption --checkpoint iter_400.pth \\
      -o FOLDER --to huggingface
  minigpt4 convert LLAMA_FOLDER --delta DELTA_FOLDER -o vicuna-7b
"""


@reports_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: The command line after the command's name.

    Returns:
        0; 1 after an error, 128 + N after signal N.
    """
    args = _parser().parse_args(argv)
    with raise_on_signals('no unfinished file is left.'):
        _run(args)
    print(f'written: {printable(args.out)}')
    return 0


def _run(args: argparse.Namespace) -> None:
    if args.delta:
        print(merge_delta(args.source, args.delta, args.out))
    elif args.to == 'huggingface':
        print(
            export_huggingface(
                args.source,
                args.checkpoint,
                args.out,
                llm=args.llm,
                dtype=args.dtype,
            )
        )
    elif (Path(args.source) / 'config.json').is_file():
        print(import_huggingface(args.source, args.out, allow=args.allow))
    else:
        reports = convert(
            args.source,
            args.out,
            to=args.to,
            model=args.model,
            dtype=args.dtype,
            allow=args.allow,
            llm=args.llm,
        )
        for part, report in reports.items():
            print(f'{part}: {report}')


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='minigpt4 convert',
        description='Rewrite weights in the layout of another project. What '
        'SOURCE holds is found out; each run reports every tensor.',
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        'source',
        metavar='SOURCE',
        help='a file of weights, or a folder of Hugging Face; with --to '
        'huggingface the model to export: a name of the hub or a config',
    )
    parser.add_argument(
        '-o',
        '--out',
        required=True,
        help='the file to write (.pth, .safetensors), or the folder where '
        f'there are several: {", ".join(FILES.values())}',
    )
    parser.add_argument(
        '--to', choices=TARGETS, default='ours', help='default: %(default)s'
    )
    parser.add_argument(
        '--model',
        help='the model that a file shall fit, a name or a config; default: '
        'minigpt-4_vicuna-7b_caption and any published projection',
    )
    parser.add_argument(
        '--checkpoint',
        help='for huggingface: the trained checkpoint; default: the published',
    )
    parser.add_argument(
        '--llm',
        help='folder of the LLM: for huggingface, and for the fingerprint of '
        'a checkpoint that has none',
    )
    parser.add_argument('--delta', help='a delta to add to the LLaMA SOURCE')
    parser.add_argument(
        '--dtype',
        choices=('float32', 'float16', 'bfloat16'),
        help="default: the file's",
    )
    parser.add_argument(
        '--allow',
        nargs='+',
        default=(),
        metavar='PATTERN',
        help='our names that may be missing, e.g. "ln_vision.*"',
    )
    add_debug_option(parser)
    return parser
