# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""What the rows that need a GPU have in common."""

import argparse
from collections.abc import Callable, Sequence

import harness
import torch


def no_gpu(name: str, unit: str, **goals) -> dict:
    """The row where there is no GPU."""
    return harness.skipped(name, unit, 'there is no CUDA device', **goals)


def wait(device: str) -> None:
    """Until the device has done all that was asked."""
    if device == 'cuda':
        torch.cuda.synchronize()


def row(
    name: str,
    figures: Sequence[float],
    unit: str,
    values: Sequence[float],
    tolerance: float,
    goals: dict,
) -> dict:
    """A row without a peer.

    Args:
        name: Its name.
        figures: The best repetition and the median.
        unit: Their unit.
        values: Two ways to the same number, the guard.
        tolerance: How far apart they may be, relative.
        goals: ``at_most`` or ``at_least``.
    """
    a, b = values
    error = abs(a - b) / max(abs(b), 1e-30)
    return harness.row(
        name,
        figures[0],
        unit,
        guard_ok=error <= tolerance,
        guard=f'{a:.6g} against {b:.6g}: {error:.1e} (<= {tolerance:g})',
        median=dict(ours=figures[1]),
        **goals,
    )


def main(measure: Callable[..., list[dict]], names: Sequence[str]) -> None:
    """Try a file of rows by itself, also on a CPU with a small model."""
    parser = argparse.ArgumentParser()
    parser.add_argument('name', choices=names)
    parser.add_argument('--device', default='cuda')
    parser.add_argument('--size', default='vicuna-7b')
    options = parser.parse_args()
    for row in measure(options.name, options.size, options.device):
        print(row)
