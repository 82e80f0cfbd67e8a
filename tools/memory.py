# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Estimate or measure the GPU and CPU memory that the model needs.

    python tools/memory.py estimate                     # two tables
    python tools/memory.py measure inference CONFIG     # build, answer
    python tools/memory.py measure train CONFIG --batch 64

docs/memory.md has the formulas of the estimate and measured figures.
"""

import argparse
import re
import resource
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from minigpt4.engine.cfg_options import CfgOptions, merge_options
from minigpt4.utils.errors import add_debug_option, reports_errors

ROOT = Path(__file__).parents[1]
GB = 1e9
BITS = ('fp32', 'bf16', '8-bit', '4-bit')
SIZES = {'7B': 'vicuna_7b', '13B': 'vicuna_13b'}
# name: (batch size, positions of each sample, its target tokens); positions
# are 32 of the image, the template and the longest answer of the configs
CASES = {
    'inference, 300 new tokens': (1, 360, 0),
    'stage 1, batch of 64': (64, 64, 32),
    'stage 1, batch of 16': (16, 64, 32),
    'stage 2, batch of 12': (12, 218, 160),
    'stage 2, batch of 1': (1, 218, 160),
}
# the LLMs of the configs for a GPU of 8 GB: part of the configs' names
SMALL_LLMS = {
    'SmolLM2-135M': 'smollm2_135m',
    'Qwen3-0.6B': 'qwen3_0_6b',
    'Llama-3.2-1B': 'llama3_2_1b',
    'SmolLM2-1.7B': 'smollm2_1_7b',
}
# positions and target tokens of a sample; a chat template needs up to 50
SMALL_INFERENCE = (380, 0)
SMALL_STAGES = {'stage1': (64, 32), 'stage2': (240, 160)}


def weight_bytes(model: nn.Module, bits: str) -> float:
    """Return the bytes of all weights, and of the head's training state.

    Args:
        model: The model on the meta device.
        bits: The LLM's type, one of ``BITS``. The backbone has 16 bits unless
            that is fp32; Q-Former and head are always in fp32.
    """
    itemsize = 4 if bits == 'fp32' else 2
    llm = model.decoder.llm
    total = itemsize * numel(model.backbone) + 4 * numel(model.neck)
    total += 16 * numel(model.head)  # weight, gradient, two moments
    total += itemsize * numel(llm)
    if bits in ('8-bit', '4-bit'):
        for module in llm.modules():
            if not isinstance(module, nn.Linear) or module is llm.lm_head:
                continue
            total -= itemsize * module.weight.numel()
            if bits == '8-bit':  # and the fp32 scale of each row
                total += module.weight.numel() + 4 * module.out_features
            else:  # and the fp32 scale of each 64 weights
                total += module.weight.numel() * (0.5 + 4 / 64)
    return total


def numel(module: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(p.numel() for p in module.parameters())


def saved_bytes(config: Any, bits: str, checkpointing: bool = False) -> float:
    """Return the bytes of activations per position in a frozen LLM.

    They are stored for the backward pass. A frozen linear layer stores
    nothing. Each layer stores the inputs of two norms in fp32 (8 h), query,
    key, value and output of attention, and gate, activated gate and up (3 i).
    8-bit layers of bitsandbytes also store their inputs (3 h + i). Qwen3
    also stores the inputs of its norms of query and key.

    Args:
        config: The Hugging Face config of the LLM, of a family of
            :mod:`minigpt4.llm.families`.
        bits: One of ``BITS``.
        checkpointing: Whether activations are recomputed.
    """
    h, i = config.hidden_size, config.intermediate_size
    query = config.num_attention_heads * head_width(config)
    key = config.num_key_value_heads * head_width(config)
    itemsize = 4 if bits == 'fp32' else 2
    layer = 8 * h + itemsize * (2 * query + 2 * key + 3 * i)
    if config.model_type == 'qwen3':
        layer += 4 * (query + key)
    if bits == '8-bit':
        layer += itemsize * (2 * h + query + i)
    if checkpointing:
        return config.num_hidden_layers * itemsize * h + layer + 4 * h
    return config.num_hidden_layers * layer + 4 * h


def head_width(config: Any) -> int:
    """The width of an attention head, which Qwen2 does not name."""
    width = getattr(config, 'head_dim', None)
    return width or config.hidden_size // config.num_attention_heads


def estimate(
    model: nn.Module, bits: str, samples: int, positions: int, targets: int
) -> float:
    """Return the bytes at the peak, without CUDA's own and fragmentation.

    Args:
        model: The model on the meta device.
        bits: One of ``BITS``.
        samples: Batch size.
        positions: Positions of each sample.
        targets: Target tokens of each sample; 0 for inference.
    """
    config = model.decoder.llm.config
    itemsize = 4 if bits == 'fp32' else 2
    total = weight_bytes(model, bits)
    if not targets:  # keys and values of all positions
        total -= 12 * numel(model.head)
        kv = 2 * config.num_hidden_layers * itemsize
        kv *= config.num_key_value_heads * head_width(config)
        return total + samples * positions * kv
    if bits in ('8-bit', '4-bit'):  # one layer's weight, dequantised
        total += itemsize * config.hidden_size * config.intermediate_size
    # log-probabilities, their gradient in fp32 and in the LLM's type
    logits = (8 + itemsize) * config.vocab_size * targets
    return total + samples * (positions * saved_bytes(config, bits) + logits)


def print_estimates() -> None:
    """Print a Markdown table in GB of 10^9 bytes."""
    from minigpt4.registry import MODELS

    print(f'| estimated, GB | LLM | {" | ".join(BITS)} |')
    print('|---|---|' + '---|' * len(BITS))
    for size, name in SIZES.items():
        path = ROOT / 'configs' / 'minigpt4' / '_base_' / f'{name}.py'
        with torch.device('meta'):
            model = MODELS.build(Config.fromfile(path).model)
        for case, numbers in CASES.items():
            row = [f'{estimate(model, b, *numbers) / GB:.1f}' for b in BITS]
            print(f'| {case} | {size} | {" | ".join(row)} |')


def print_small_estimates() -> None:
    """Print a Markdown table of the configs for a GPU of 8 GB, in bf16."""
    from minigpt4.registry import MODELS

    print(
        '| estimated, GB | parameters, millions | inference, 300 new tokens | '
        'stage 1, micro batch | stage 1, batch of 64 | stage 2, micro batch | '
        'stage 2, batch of 12 |'
    )
    print('|---|---|---|---|---|---|---|')
    for llm, name in SMALL_LLMS.items():
        row = []
        for stage, numbers in SMALL_STAGES.items():
            path = ROOT / 'configs' / 'minigpt4' / f'{stage}_{name}.py'
            cfg = Config.fromfile(path)
            with torch.device('meta'):
                model = MODELS.build(cfg.model)
            largest = 64 if stage == 'stage1' else cfg.global_batch_size
            micro = cfg.model.get('micro_batch_size') or largest
            for size in (micro, largest):
                peak = estimate(model, 'bf16', size, *numbers) / GB
                row.append(f'{peak:.1f}')
            row[-2] += f' ({micro})'
        row.insert(
            0, f'{estimate(model, "bf16", 1, *SMALL_INFERENCE) / GB:.1f}'
        )
        millions = numel(model.decoder) / 1e6
        print(f'| {llm} | {millions:,.1f} | {" | ".join(row)} |')


class Peak:
    """Peak memory of the CPU, and of the GPU if there is one, since the start.

    ``own`` is the anonymous memory of the process (RssAnon, sampled); the rest
    of the total (VmHWM) is mostly mapped files, which the system can release.
    """

    def __init__(self) -> None:
        self.own, self.start = 0.0, time.time()
        self._running = True
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def _watch(self) -> None:
        while self._running:
            status = Path('/proc/self/status').read_text()
            now = re.search(r'RssAnon:\s+(\d+) kB', status)
            self.own = max(self.own, int(now[1]) * 1024 if now else 0)
            time.sleep(0.02)

    def report(self, step: str) -> None:
        """Print a line with the peaks of a step."""
        self._running = False
        self._thread.join()
        total = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        line = (
            f'{step}: {time.time() - self.start:.1f} s; CPU peak '
            f'{self.own / GB:.2f} GB own, {total / GB:.2f} GB with files'
        )
        if torch.cuda.is_available():
            line += (
                f'; GPU peak {torch.cuda.max_memory_allocated() / GB:.2f} GB '
                f'allocated, {torch.cuda.max_memory_reserved() / GB:.2f} GB '
                'reserved'
            )
        print(line, flush=True)


def measure(step: str, run: Callable[[], Any]) -> Any:
    """Run a function and print its time and peak memory."""
    peak = Peak()
    result = run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    peak.report(step)
    return result


def run(args: argparse.Namespace) -> None:
    """Build the model of a config, then answer or train."""
    from mmengine.optim import OptimWrapper
    from mmengine.structures import BaseDataElement

    import minigpt4
    from minigpt4.prompts import Turn

    cfg = Config.fromfile(args.config)
    merge_options(cfg, args.cfg_options or {})
    measure('start', lambda: None)
    model = measure(
        'load',
        lambda: minigpt4.get_model(cfg, pretrained=args.pretrained or False),
    )
    size = model.backbone.img_size
    training = args.what == 'train'
    # more words than fit, so that answers have the largest length
    turn = Turn('', 'word ' * (model.max_text_length or 160))
    if not training:
        turn = Turn(model.prompt)
    samples = [
        BaseDataElement(
            images=[torch.randint(0, 256, (3, size, size)).byte()],
            turns=[turn],
        )
        for _ in range(args.batch)
    ]
    if not training:
        answers = measure(
            f'answer {args.tokens} tokens',
            lambda: model.generate(samples, max_new_tokens=args.tokens),
        )
        print([answer.token_ids for answer in answers])
        return
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    wrapper = OptimWrapper(torch.optim.AdamW(trained, lr=1e-5))
    for number in (1, 2):
        out = measure(
            f'step {number}, {args.batch} samples',
            lambda: model.train_step(samples, wrapper),
        )
        print(f'loss {float(out["loss"]):.4f}')


@reports_errors
def main() -> None:
    """Estimate or measure."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest='verb', required=True)
    verbs.add_parser('estimate')
    verb = verbs.add_parser('measure')
    verb.add_argument('what', choices=['inference', 'train'])
    verb.add_argument('config')
    verb.add_argument('--pretrained', help='a checkpoint of the head')
    verb.add_argument('--batch', type=int, default=1)
    verb.add_argument('--tokens', type=int, default=8)
    verb.add_argument('--cfg-options', nargs='+', action=CfgOptions)
    add_debug_option(parser)
    args = parser.parse_args()
    if args.verb == 'estimate':
        print_estimates()
        print()
        print_small_estimates()
    else:
        run(args)


if __name__ == '__main__':
    sys.exit(main())
