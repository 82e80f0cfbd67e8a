# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 convert``: weights of other projects to ours, and back."""

import argparse
from pathlib import Path

TARGETS = (
    *('ours', 'official', 'mmpretrain', 'huggingface'),
    *('merged', 'peft'),  # of a model with LoRA
)
FOLDER_FILES = ('eva_vit.safetensors', 'q_former.safetensors', 'minigpt4.pth')
_EXAMPLES = """\
examples:
  minigpt4 convert eva_vit_g.pth -o eva_vit.safetensors
  minigpt4 convert prerained_minigpt4_7b.pth -o minigpt4_7b.pth --llm LLM
  minigpt4 convert BLIP2_FOLDER -o weights
  minigpt4 convert iter_400.pth -o minigpt4_7b.pth --to official
  minigpt4 convert minigpt-4_vicuna-7b_caption --checkpoint iter_400.pth \\
      -o FOLDER --to huggingface
  minigpt4 convert stage2_finetune_vicuna.py --checkpoint iter_400.pth \\
      -o FOLDER --to merged
  minigpt4 convert LLAMA_FOLDER --delta DELTA_FOLDER -o vicuna-7b
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    parser.description = (
        'Rewrite weights in the layout of another project. The kind of '
        'SOURCE is detected; each run reports every tensor.'
    )
    parser.epilog = _EXAMPLES
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        'source',
        metavar='SOURCE',
        help='a file of weights, or a folder of Hugging Face; with --to '
        'huggingface, merged and peft the model to export: a name of the hub '
        'or a config',
    )
    parser.add_argument(
        '-o',
        '--out',
        required=True,
        help='the file to write (.pth, .safetensors), or the folder for '
        f'several files: {", ".join(FOLDER_FILES)}',
    )
    parser.add_argument(
        '--to',
        choices=TARGETS,
        default='ours',
        help='merged: the LLM with LoRA merged into it, and the projection; '
        'peft: LoRA as an adapter of peft, and the projection; default: '
        '%(default)s',
    )
    parser.add_argument(
        '--model',
        help='the model that a file shall fit, a name or a config; default: '
        'minigpt-4_vicuna-7b_caption and any published projection',
    )
    parser.add_argument(
        '--checkpoint',
        help='for huggingface, merged and peft: the trained checkpoint; '
        'default: the published',
    )
    parser.add_argument(
        '--llm',
        help='folder of the LLM: for huggingface, merged, peft, and for the '
        'fingerprint of a checkpoint that has none',
    )
    parser.add_argument(
        '--with-opt',
        action='store_true',
        help='of a BLIP-2 with OPT, write its projection and LLM too',
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


def run(args: argparse.Namespace) -> None:
    """Run the verb."""
    from minigpt4.utils.errors import printable
    from minigpt4.utils.signals import raise_on_signals

    with raise_on_signals('no unfinished file is left.'):
        _convert(args)
    print(f'written: {printable(args.out)}')


def _convert(args: argparse.Namespace) -> None:
    from minigpt4.convert.convert_files import convert
    from minigpt4.convert.huggingface_export import export_huggingface
    from minigpt4.convert.huggingface_import import import_huggingface
    from minigpt4.convert.lora_export import export_merged, export_peft
    from minigpt4.convert.vicuna import merge_delta

    if args.delta:
        print(merge_delta(args.source, args.delta, args.out))
    elif args.to in ('huggingface', 'merged', 'peft'):
        export = dict(
            huggingface=export_huggingface,
            merged=export_merged,
            peft=export_peft,
        )[args.to]
        print(
            export(
                args.source,
                args.checkpoint,
                args.out,
                llm=args.llm,
                dtype=args.dtype,
            )
        )
    elif (Path(args.source) / 'config.json').is_file():
        print(
            import_huggingface(
                args.source,
                args.out,
                allow=args.allow,
                with_opt=args.with_opt,
            )
        )
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
