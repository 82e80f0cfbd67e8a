# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Rebuild the shipped nano weights: python tools/build_nano.py [--seed N]."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from minigpt4.utils.errors import add_debug_option, reports_errors
from minigpt4_cli.options import positive_int

ROOT = Path(__file__).parents[1]
WEIGHTS = ROOT / 'projects/minigpt4/nano/weights'
PARTS = ('llm', 'vision', 'projection')
TOKENIZER_CONFIG = dict(
    tokenizer_class='LlamaTokenizer',
    bos_token='<s>',
    eos_token='</s>',
    unk_token='<unk>',
    add_bos_token=True,
    add_eos_token=False,
    legacy=True,
    model_max_length=512,
)


def build_llm(
    out: Path, steps: int, seed: int, captions_only: bool = False
) -> None:
    """Train tokenizer and language model."""
    from minigpt4.nano import pretrain

    folder = out / 'llm'
    folder.mkdir(parents=True, exist_ok=True)
    pretrain.train_tokenizer(folder / 'tokenizer.model', seed)
    (folder / 'tokenizer_config.json').write_text(
        json.dumps(TOKENIZER_CONFIG, indent=1)
    )
    llm = pretrain.pretrain_llm(
        folder / 'tokenizer.model',
        steps,
        seed=seed,
        captions_only=captions_only,
    )
    llm.half().save_pretrained(folder)
    _set_usual_mode(folder / 'model.safetensors')
    (folder / 'generation_config.json').unlink()  # repeats config.json


def build_vision(out: Path, steps: int, seed: int) -> None:
    """Train vision encoder and Q-Former."""
    from safetensors.torch import save_file

    from minigpt4.nano import pretrain

    out.mkdir(parents=True, exist_ok=True)
    backbone, neck = pretrain.pretrain_vision(steps, seed=seed)
    for name, module in (('eva_vit', backbone), ('q_former', neck)):
        tensors = {k: v.half() for k, v in module.state_dict().items()}
        file = out / f'{name}.safetensors'
        save_file(tensors, file)
        _set_usual_mode(file)


def _set_usual_mode(file: Path) -> None:
    """Let others read a file; safetensors lets only its owner."""
    umask = os.umask(0)
    os.umask(umask)
    file.chmod(0o666 & ~umask)


def build_projection(out: Path) -> None:
    """Train both stages with the weights in ``out``."""
    import torch

    from minigpt4.engine.config import latest_checkpoint

    out = out.resolve()
    options = [
        f'model.backbone.checkpoint={out}/eva_vit.safetensors',
        f'model.neck.checkpoint={out}/q_former.safetensors',
        f'model.decoder.name_or_path={out}/llm',
    ]
    with tempfile.TemporaryDirectory() as folder:

        def run(tool: str, *arguments: str) -> None:
            script = str(ROOT / 'tools' / tool)
            command = [sys.executable, script, *arguments]
            status = subprocess.run(command, cwd=folder).returncode
            if status < 0:
                raise ChildProcessError(
                    f'tools/{tool} was ended by signal {-status}; run this '
                    'command again.'
                )
            if status:
                sys.exit(status)  # it has printed its error

        run('nano_data.py')
        configs = ROOT / 'configs' / 'minigpt4'
        for stage in ('stage1', 'stage2'):
            config = f'{configs}/{stage}_nano.py'
            run(
                'train.py',
                config,
                '--work-dir',
                stage,
                '--cfg-options',
                *options,
            )
            trained = latest_checkpoint(f'{folder}/{stage}')
            options.append(f'load_from={trained}')
        state = torch.load(trained, weights_only=True)['state_dict']
    torch.save(dict(meta={}, state_dict=state), out / 'minigpt4_nano.pth')


@reports_errors
def main() -> None:
    """Pretrain the frozen weights and save them in half precision."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--out', type=Path, default=WEIGHTS)
    parser.add_argument('--llm-steps', type=positive_int, default=3000)
    parser.add_argument('--vision-steps', type=positive_int, default=2000)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--parts', nargs='+', default=PARTS, choices=PARTS)
    parser.add_argument(
        '--captions-only',
        action='store_true',
        help='a language model that knows captions and no chat, for '
        'stage1_nano_blip2.py; with --parts llm and --out',
    )
    add_debug_option(parser)
    args = parser.parse_args()
    if args.captions_only and (args.parts != ['llm'] or args.out == WEIGHTS):
        parser.error('--captions-only needs --parts llm and --out FOLDER')
    if 'llm' in args.parts:
        build_llm(args.out, args.llm_steps, args.seed, args.captions_only)
    if 'vision' in args.parts:
        build_vision(args.out, args.vision_steps, args.seed)
    if 'projection' in args.parts:
        build_projection(args.out)
    print(f'the nano weights are in {args.out}')


if __name__ == '__main__':
    sys.exit(main())
