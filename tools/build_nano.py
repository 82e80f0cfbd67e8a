# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Rebuild the shipped nano weights: python tools/build_nano.py [--seed N]."""

import argparse
import json
from pathlib import Path

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


def main() -> None:
    """Pretrain the parts and save them in half precision."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--out', type=Path, default=Path('projects/minigpt4/nano/weights')
    )
    parser.add_argument('--llm-steps', type=int, default=1800)
    parser.add_argument('--vision-steps', type=int, default=1000)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument(
        '--parts',
        nargs='+',
        default=['llm', 'vision'],
        choices=['llm', 'vision'],
    )
    args = parser.parse_args()
    from safetensors.torch import save_file

    from minigpt4.nano import pretrain

    llm_folder = args.out / 'llm'
    llm_folder.mkdir(parents=True, exist_ok=True)
    if 'llm' in args.parts:
        pretrain.train_tokenizer(llm_folder / 'tokenizer.model', args.seed)
        (llm_folder / 'tokenizer_config.json').write_text(
            json.dumps(TOKENIZER_CONFIG, indent=1)
        )
        llm = pretrain.pretrain_llm(
            llm_folder / 'tokenizer.model', args.llm_steps, seed=args.seed
        )
        llm.half().save_pretrained(llm_folder)
    if 'vision' in args.parts:
        backbone, neck = pretrain.pretrain_vision(
            args.vision_steps, seed=args.seed
        )
        for name, part in (('eva_vit', backbone), ('q_former', neck)):
            save_file(
                {k: v.half() for k, v in part.state_dict().items()},
                args.out / f'{name}.safetensors',
            )
    print(f'the nano weights lie in {args.out}')


if __name__ == '__main__':
    main()
