# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Write the files of a complete model with random weights, at full size.

    python tools/random_model.py OUT --size 7b --tokenizer tokenizer.model

writes OUT/llm (set MINIGPT4_LLM to it), OUT/eva_vit.safetensors,
OUT/q_former.safetensors and OUT/projection.pth, with the tensor names of the
published files. Its answers are meaningless, but it shows whether the model
loads, how fast it is and how much memory it needs. One tensor is in memory at
a time.
"""

import argparse
import shutil
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from mmengine.config import Config
from torch import nn

from minigpt4.utils.errors import add_debug_option, reports_errors

if TYPE_CHECKING:  # imported late, so that --help is fast
    from minigpt4.weights.read import LazyTensor

ROOT = Path(__file__).parents[1]
CONFIGS = {'7b': 'vicuna_7b', '13b': 'vicuna_13b', 'nano': 'nano'}


def random_tensors(
    module: nn.Module, dtype: torch.dtype, seed: int
) -> 'dict[str, LazyTensor]':
    """Return random tensors by the names of a module.

    Args:
        module: The module, on the meta device.
        dtype: Type of the tensors.
        seed: Each tensor depends on it and on its name.

    Returns:
        Tensors that are drawn when they are read: ones for norms, else normal
        with a deviation of 0.02.
    """
    from minigpt4.weights.read import LazyTensor

    def lazy(name: str, shape: torch.Size) -> 'LazyTensor':
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
    """Write a SentencePiece model as LLaMA's tokenizer."""
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
    from minigpt4.weights.shipped import NANO_FOLDER as SHIPPED

    base = ROOT / 'configs' / 'minigpt4' / '_base_'
    cfg = Config.fromfile(base / f'{CONFIGS[args.size]}.py').model
    cfg.decoder.dtype = args.dtype
    with torch.device('meta'):
        model = MODELS.build(cfg)
    tensors = {
        name: random_tensors(module, getattr(torch, args.dtype), args.seed)
        for name, module in model.named_children()
    }
    llm_config = model.decoder.llm.config
    with replacing(args.out) as out:
        write_model(out, tensors, llm_config)
        if args.tokenizer or args.size == 'nano':
            nano = SHIPPED / 'llm' / 'tokenizer.model'
            write_tokenizer(out / 'llm', args.tokenizer or nano)


def write_model(
    out: Path, tensors: 'dict[str, dict[str, LazyTensor]]', llm_config: Any
) -> None:
    """Write the weights of all components and the LLM's config.

    Args:
        out: The folder.
        tensors: The tensors of each component.
        llm_config: The Hugging Face config of the LLM.
    """
    from minigpt4.weights.layouts import to_layout
    from minigpt4.weights.write import write_safetensors, write_sharded

    llm = out / 'llm'
    llm.mkdir(parents=True)
    write_sharded(
        llm,
        {k.removeprefix('llm.'): v for k, v in tensors['decoder'].items()},
        progress='LLM',
    )
    llm_config.save_pretrained(llm)
    for component, file in (('backbone', 'eva_vit'), ('neck', 'q_former')):
        renamed = to_layout(component, 'official', tensors[component])
        write_safetensors(out / f'{file}.safetensors', renamed, progress=file)
    # layouts have the head's names in a checkpoint
    head = {f'head.{name}': lazy for name, lazy in tensors['head'].items()}
    projection = {
        name: lazy.to(torch.float32).read()
        for name, lazy in to_layout('head', 'official', head).items()
    }
    torch.save(dict(model=projection), out / 'projection.pth')


if __name__ == '__main__':
    sys.exit(main())
