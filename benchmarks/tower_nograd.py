# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A step through a frozen vision tower and a trained projector.

The peer has XTuner's settings for LLaVA, reimplemented: the tower's input
requires a gradient and its blocks are checkpointed, so the backward pass runs
through the tower and recomputes it without need.

Source: XTuner ``model/llava.py`` (``enable_input_require_grads``,
``use_activation_checkpointing``).
"""

import sys
from pathlib import Path

import harness
import mini_prop
import torch
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode
from training import normalised, prepare

DEPTH, IMAGES = 8, 4


def build(side: str, figure: str, folder: Path):
    """The work of a side: forward and backward of a mean."""
    torch.set_num_threads(1)
    from minigpt4.registry import MODELS

    torch.manual_seed(0)
    sizes = mini_prop.SIZES[(folder / 'size').read_text()]
    parts = mini_prop.part_configs(folder, (folder / 'size').read_text())
    tower = MODELS.build(parts['backbone'])
    del tower.blocks[DEPTH:]
    projector = torch.nn.Linear(sizes['vision']['width'], 256)
    images = normalised(folder)[:IMAGES]

    def features():
        if side == 'ours':
            with torch.no_grad():  # as in MiniGPT4.encode_images
                return tower(images)
        x = tower.patch_embed(images)
        x = torch.cat((tower.cls_token.expand(len(x), -1, -1), x), dim=1)
        x = (x + tower.pos_embed).requires_grad_()
        for block in tower.blocks:
            x = checkpoint(block, x, use_reentrant=False)
        return x

    def step():
        projector.zero_grad()
        loss = projector(features()).square().mean()
        loss.backward()
        return loss.detach()

    def flops() -> float:
        with FlopCounterMode(display=False) as counter:
            step()
        return counter.get_total_flops()

    guard = dict(loss=step().numpy(), gradient=projector.weight.grad.numpy())
    guard = {name: array.copy() for name, array in guard.items()}
    return (flops if figure == 'flops' else lambda: step() and None), guard


def measure(repeats: int) -> list[dict]:
    """The rows."""
    folder = prepare()
    rows = []
    for name, figure, unit, scale, times in (
        ('tower-nograd', 'flops', 'GFLOP/image', 1e-9, 1),
        ('tower-nograd time', 'cpu', 'CPU-s/image', 1, repeats),
    ):
        rows.append(
            harness.compare(
                name,
                harness.side(__file__, 'ours', figure, folder),
                harness.side(__file__, 'peer', figure, folder),
                unit,
                2.4,
                peer_name="XTuner's settings, reimplemented",
                per=IMAGES,
                rate=False,
                scale=scale,
                repeats=times,
            )
        )
    return rows


if __name__ == '__main__':
    harness.worker(lambda: build(*sys.argv[1:3], Path(sys.argv[3])), 1)
