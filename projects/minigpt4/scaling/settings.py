# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The run, the machines and the data of a simulation, and their ranges."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Settings:
    """The run, the machines and the data.

    Sizes in bytes, times in seconds. The defaults are those of A100 GPUs in
    machines of eight; docs/scaling.md has the source of each.
    """

    # the run
    gpus: int = 8
    pairs: float = 5.12e6  # before dead links
    batch: int = 256  # of all GPUs
    micro_batch: int = 64
    shard: bool = False  # decoder.shard
    reads_all: bool = False  # every rank reads all shards
    workers: int = 4  # data workers of a GPU
    seed: int = 0
    steps: int = 400  # steps that are drawn
    # the GPU
    flops: float = 312e12
    utilisation: float = 0.5  # of a large matrix product
    memory_bandwidth: float = 2.0e12
    memory: float = 80e9
    call_s: float = 15e-6  # host time to start a layer's kernels
    serial: bool = False  # a CPU: host and device are the same
    # between GPUs
    gpus_per_node: int = 8
    link: float = 200e9  # of a GPU, inside a machine
    network: float = 25e9  # of a machine
    hop_s: float = 20e-6
    # the data
    storage: float = 2e9  # of all machines together
    pair_bytes: float = 20e3
    shard_pairs: int = 10000
    decode_s: float = 0.8e-3  # CPU time to read and decode a pair
    read_s: float = 0.06e-3  # to read a pair that another rank decodes
    caption_tokens: float = 20  # mean of a lognormal
    caption_sigma: float = 0.35
    max_tokens: int = 32  # model.max_text_length
    link_rot: float = 0.0
    links_per_s: float = 1350  # downloaded by a machine
    # what goes wrong
    jitter: float = 0.03  # half-normal delay of a GPU in a step
    slow_gpus: int = 0
    slow_factor: float = 1.25  # time of a slow GPU
    shard_failures: float = 1e-4  # shards that block when they are opened
    shard_timeout: float = 60
    failure_hours: float = 50000  # of one GPU, between two failures
    restart_s: float = 300
    save_interval: int = 1000  # steps
    save_s: float = 2


# the smallest and the largest value of each setting
RANGES: dict[str, tuple[float, float]] = {
    'gpus': (1, 100_000),
    'pairs': (1, 1e13),
    'batch': (1, 1_000_000),
    'micro_batch': (1, 1_000_000),
    'shard': (False, True),
    'reads_all': (False, True),
    'workers': (1, 1024),
    'seed': (0, 2**32 - 1),
    'steps': (1, 100_000),
    'flops': (1e6, 1e18),
    'utilisation': (0.001, 1),
    'memory_bandwidth': (1e6, 1e16),
    'memory': (1e6, 1e15),
    'call_s': (0, 10),
    'serial': (False, True),
    'gpus_per_node': (1, 100_000),
    'link': (1e3, 1e16),
    'network': (1e3, 1e16),
    'hop_s': (0, 10),
    'storage': (1e3, 1e16),
    'pair_bytes': (1, 1e10),
    'shard_pairs': (1, 1_000_000_000),
    'decode_s': (0, 1000),
    'read_s': (0, 1000),
    'caption_tokens': (1, 100_000),
    'caption_sigma': (0, 10),
    'max_tokens': (1, 1_000_000),
    'link_rot': (0, 0.999),
    'links_per_s': (0.001, 1e9),
    'jitter': (0, 100),
    'slow_gpus': (0, 100_000),
    'slow_factor': (1, 1000),
    'shard_failures': (0, 1),
    'shard_timeout': (0, 1e6),
    'failure_hours': (0.001, math.inf),
    'restart_s': (0, 1e7),
    'save_interval': (1, 1_000_000_000),
    'save_s': (0, 1e6),
}
_MAX_DRAWN = 10**8  # captions, of eight bytes


def check_setting(name: str, value: Any) -> None:
    """Check the value of a setting.

    Raises:
        ValueError: It has another type, or is not in ``RANGES``.
    """
    kinds = {field.name: field.type for field in dataclasses.fields(Settings)}
    kind, (low, high) = kinds[name], RANGES[name]
    if kind is bool:
        if not isinstance(value, bool):
            raise ValueError(f'{name} is {value!r}; expected True or False.')
        return
    types = (int,) if kind is int else (int, float)
    if (
        isinstance(value, bool)
        or not isinstance(value, types)
        or not low <= value <= high  # false for nan
    ):
        noun = 'an integer' if kind is int else 'a number'
        raise ValueError(
            f'{name} is {value!r}; expected {noun} from {low:,.10g} to '
            f'{high:,.10g}.'
        )


def check_settings(settings: Settings) -> None:
    """Check all settings.

    Raises:
        ValueError: A setting is not in its range, the GPUs do not divide
            the batch, more GPUs are slow than there are, or too many
            captions would be drawn.
    """
    s = settings
    for name in RANGES:
        check_setting(name, getattr(s, name))
    if s.batch % s.gpus:
        raise ValueError(
            f'{s.gpus} GPUs do not divide a batch of {s.batch}; expected a '
            'divisor of the batch; change --gpus or --set batch=NUMBER.'
        )
    if s.slow_gpus > s.gpus:
        raise ValueError(
            f'slow_gpus is {s.slow_gpus}; expected at most the {s.gpus} GPUs '
            'of each run.'
        )
    if s.steps * s.batch > _MAX_DRAWN:
        raise ValueError(
            f'steps * batch is {s.steps * s.batch:,}; expected at most '
            f'{_MAX_DRAWN:,} captions that are drawn; set fewer steps.'
        )
