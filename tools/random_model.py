# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Write the files of a whole model, at full size, with random weights.

    python tools/random_model.py OUT --size 7b --tokenizer tokenizer.model

writes OUT/llm (what MINIGPT4_LLM names), OUT/eva_vit.safetensors,
OUT/q_former.safetensors and OUT/projection.pth, named as in the published
files. What the model then says is nonsense; that it loads, answers and fits
is what one learns. One tensor is in memory at a time.
"""

import argparse
import shutil
import sys
import zlib
from pathlib import Path

import torch
from mmengine.config import Config
from torch import nn

from minigpt4.utils.errors import add_debug_option, reports_errors

ROOT = Path(__file__).parents[1]
CONFIGS = {'7b': 'vicuna_7b', '13b': 'vicuna_13b', 'nano': 'nano'}


def random_tensors(module: nn.Module, dtype: torch.dtype, seed: int) -> dict:
    """Lazy random tensors for a module's names; norms are one, small else."""
    from minigpt4.weights.read import LazyTensor

    def lazy(name: str, shape: torch.Size) -> LazyTensor:
        def read() -> torch.Tensor:
            if len(shape) == 1 and name.endswith('weight'):
                return torch.ones(shape, dtype=dtype)
            torch.manual_seed(seed + zlib.crc32(name.encode()))
            # drawing in fp32 is many times faster than in 16 bits
            return torch.randn(shape).mul_(0.02).to(dtype)

        return LazyTensor(tuple(shape), dtype, read)

    return {
        name: lazy(name, t.shape) for name, t in module.state_dict().items()
    }


def write_tokenizer(folder: Path, model: Path) -> None:
    """A SentencePiece file as LLaMA's tokenizer."""
    shutil.copy(model, folder / 'tokenizer.model')
    (folder / 'tokenizer_config.json').write_text(
        '{"tokenizer_class": "LlamaTokenizer"}'
    )


@reports_errors
def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('out', type=Path)
    parser.add_argument('--size', choices=CONFIGS, default='7b')
    parser.add_argument('--dtype', default='bfloat16')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument(
        '--tokenizer',
        type=Path,
        help="LLaMA's tokenizer.model; without it the LLM loads but cannot "
        'answer (the nano size has its own)',
    )
    add_debug_option(parser)
    args = parser.parse_args()
    from minigpt4.registry import MODELS
    from minigpt4.utils.atomic import replacing
    from minigpt4.weights.read import SHIPPED

    base = ROOT / 'configs' / 'minigpt4' / '_base_'
    cfg = Config.fromfile(base / f'{CONFIGS[args.size]}.py').model
    cfg.decoder.dtype = args.dtype
    with torch.device('meta'):
        model = MODELS.build(cfg)
    parts = {
        name: random_tensors(part, getattr(torch, args.dtype), args.seed)
        for name, part in model.named_children()
    }
    llm_config = model.decoder.llm.config
    with replacing(args.out) as out:
        write_model(out, parts, llm_config)
        if args.tokenizer or args.size == 'nano':
            own = SHIPPED / 'llm' / 'tokenizer.model'
            write_tokenizer(out / 'llm', args.tokenizer or own)


def write_model(out: Path, parts: dict[str, dict], llm_config) -> None:
    """Write the weights of all parts and the LLM's config."""
    from minigpt4.weights.layouts import to_layout
    from minigpt4.weights.write import write_safetensors, write_sharded

    llm = out / 'llm'
    llm.mkdir(parents=True)
    write_sharded(
        llm,
        {k.removeprefix('llm.'): v for k, v in parts['decoder'].items()},
        progress='LLM',
    )
    llm_config.save_pretrained(llm)
    for part, file in (('backbone', 'eva_vit'), ('neck', 'q_former')):
        tensors = to_layout(part, 'official', parts[part])
        write_safetensors(out / f'{file}.safetensors', tensors, progress=file)
    # layouts name the head's tensors as a checkpoint does
    head = {f'head.{name}': lazy for name, lazy in parts['head'].items()}
    projection = {
        name: lazy.to(torch.float32).read()
        for name, lazy in to_layout('head', 'official', head).items()
    }
    torch.save(dict(model=projection), out / 'projection.pth')


if __name__ == '__main__':
    sys.exit(main())
