# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Simulate stage 1 on many GPUs: where its time goes.

docs/scaling.md explains the model and compares it with measured steps.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .settings import Settings, check_settings

HOUR = 3600
# what the GPU was bought for; the rest of the time it waits
USEFUL = ('vision', 'LLM forward', 'LLM backward')
IDLE = (
    'calls and weights',
    'all-gather',
    'all-reduce',
    'stragglers',
    'data',
    'blocked shards',
    'checkpoints',
    'failures',
)
_MAX_FAILURES = 10**6


@dataclass(frozen=True)
class Work:
    """What a config computes and stores; see :func:`count_work`.

    Attributes:
        vision: FLOPs of the vision parts for one image.
        position: FLOPs of the LLM's linear layers for one position, forward;
            the backward pass to the projection has as many, because frozen
            weights get no gradient.
        attention: FLOPs of attention for a position and one that it sees.
        target: FLOPs of the output head for one supervised position, and of
            the last layer's MLP where only these positions pass through it.
        image_positions: Positions of an image in the LLM.
        vision_calls: Linear and convolution layers of the vision parts.
        llm_calls: Linear layers of the LLM.
        vision_bytes: Weights of the vision parts.
        llm_bytes: Weights of the LLM.
        layer_bytes: Those of its layers, which ``decoder.shard`` shards.
        layers: Number of these layers.
        trained: Trained parameters.
        fixed_memory: Bytes of all weights and of the training state.
        position_memory: Bytes of the activations of a position.
        target_memory: Bytes of the logits of a supervised position.
    """

    vision: float
    position: float
    attention: float
    target: float
    image_positions: int
    vision_calls: int
    llm_calls: int
    vision_bytes: float
    llm_bytes: float
    layer_bytes: float
    layers: int
    trained: int
    fixed_memory: float
    position_memory: float
    target_memory: float


@dataclass(frozen=True)
class Result:
    """What a simulation found.

    Attributes:
        seconds: Time of the run by cause; the keys are ``USEFUL`` and
            ``IDLE``.
        steps: Optimizer steps of the run.
        loads: Demand of each resource at the speed of the GPUs, divided by
            what there is; above 1 it limits the run.
        bytes_read: Bytes that all ranks read.
        failures: Times that the run is started again.
    """

    seconds: dict[str, float]
    steps: int
    loads: dict[str, float]
    bytes_read: float
    failures: int

    @property
    def total(self) -> float:
        """Seconds of the run."""
        return sum(self.seconds.values())

    @property
    def shares(self) -> dict[str, float]:
        """Part of the time by cause; the sum is 1."""
        return {k: v / self.total for k, v in self.seconds.items()}

    @property
    def worst(self) -> str:
        """The largest cause of waiting."""
        return max(IDLE, key=lambda cause: self.seconds[cause])


def all_reduce_bytes(gpus: int, parameters: int) -> float:
    """Bytes that a GPU sends to average fp32 gradients in a ring."""
    return 2 * (gpus - 1) / gpus * 4 * parameters


def all_gather_bytes(gpus: int, layer_bytes: float, passes: int) -> float:
    """Bytes that a GPU receives to gather sharded layers in each pass."""
    return passes * (gpus - 1) / gpus * layer_bytes


def link_speed(settings: Settings) -> float:
    """Bytes per second between neighbours of a ring over all GPUs."""
    s = settings
    return s.link if s.gpus <= s.gpus_per_node else s.network


def pass_seconds(
    work: Work, settings: Settings, samples: int, positions: Any
) -> dict[str, Any]:
    """Return the seconds of one rank in a step, by cause.

    Args:
        work: What the config computes.
        settings: The settings.
        samples: Samples of the rank.
        positions: Positions of all its samples in the LLM: a number or an
            array.
    """
    s = settings
    pieces = math.ceil(samples / s.micro_batch)
    targets = positions - samples * (work.image_positions - 1)
    llm = positions * (
        work.position + work.attention * positions / samples / 2
    )
    llm = llm + targets * work.target
    flops = dict(zip(USEFUL, (samples * work.vision + 0 * llm, llm, llm)))
    seconds = {k: v / (s.flops * s.utilisation) for k, v in flops.items()}
    idle, gather = 0 * llm, 0 * llm
    for name, calls, size, sharded in (
        ('vision', work.vision_calls, work.vision_bytes, False),
        ('LLM forward', work.llm_calls, work.llm_bytes, s.shard),
        ('LLM backward', work.llm_calls, work.llm_bytes, s.shard),
    ):
        start = pieces * calls * s.call_s
        if s.serial:
            idle = idle + start
            hidden = 0
        else:
            floor = max(start, pieces * size / s.memory_bandwidth)
            idle = idle + np.maximum(0, floor - seconds[name])
            # the next layer is gathered while this one computes
            hidden = np.maximum(seconds[name], floor)
        if sharded:
            size = all_gather_bytes(s.gpus, work.layer_bytes, pieces)
            gather = gather + np.maximum(0, size / link_speed(s) - hidden)
    return {**seconds, 'calls and weights': idle, 'all-gather': gather}


def reduce_seconds(work: Work, settings: Settings) -> float:
    """Seconds to average gradients, and three collectives of one number."""
    s = settings
    size = all_reduce_bytes(s.gpus, work.trained)
    hops = 2 * math.ceil(math.log2(s.gpus))
    return size / link_speed(s) + 4 * hops * s.hop_s


def worker_seconds(settings: Settings) -> float:
    """CPU seconds of one rank's data workers for a step."""
    s = settings
    mine = s.batch / s.gpus
    others = s.batch - mine if s.reads_all else 0
    return mine * s.decode_s + others * s.read_s


def peak_memory(work: Work, settings: Settings) -> float:
    """Bytes of a GPU at the peak, with captions of the greatest length."""
    s = settings
    samples = min(s.micro_batch, s.batch // s.gpus)
    total = work.fixed_memory + samples * (
        (work.image_positions + s.max_tokens) * work.position_memory
        + s.max_tokens * work.target_memory
    )
    if s.shard:  # this layer and the next are complete
        kept = min(1, 1 / s.gpus + 2 / work.layers)
        total -= (1 - kept) * work.layer_bytes
    return total


def draw_positions(work: Work, settings: Settings) -> np.ndarray:
    """Draw the positions of each rank's samples: ``(steps, gpus)``."""
    s = settings
    rng = np.random.default_rng([s.seed, 0])
    mean = math.log(s.caption_tokens) - s.caption_sigma**2 / 2
    size = (s.steps, s.gpus, s.batch // s.gpus)
    captions = rng.lognormal(mean, s.caption_sigma, size)
    captions = captions.round().clip(1, s.max_tokens)
    # the last token is only a target
    return (work.image_positions + captions - 1).sum(2)


def simulate(work: Work, settings: Settings) -> Result:
    """Simulate a run.

    Some steps are drawn, and their mean is that of all steps. Blocked shards
    and failures are drawn for the complete run.

    Raises:
        ValueError: The settings are invalid, or nearly all the time would be
            lost by failures.
    """
    s = settings
    check_settings(s)
    rng = np.random.default_rng([s.seed, 1])
    samples = s.batch // s.gpus
    causes = pass_seconds(work, s, samples, draw_positions(work, s))
    busy = sum(causes.values())
    delay = 1 + s.jitter * np.abs(rng.standard_normal(busy.shape))
    delay[:, : s.slow_gpus] *= s.slow_factor
    computing = (busy * delay).max(1).mean()
    per_step = {k: float(v.mean()) for k, v in causes.items()}
    per_step['stragglers'] = float(computing - busy.mean())
    per_step['all-reduce'] = reduce_seconds(work, s) if s.gpus > 1 else 0.0
    step = sum(per_step.values())

    read = s.batch * (s.gpus if s.reads_all else 1)  # pairs, by all ranks
    node = min(s.gpus, s.gpus_per_node) / s.gpus
    supply = {
        'storage': read * s.pair_bytes / s.storage,
        'network': read * node * s.pair_bytes / s.network,
        'data workers': worker_seconds(s) / s.workers,
    }
    per_step['data'] = max(0.0, max(supply.values()) - step)
    loads = {name: seconds / step for name, seconds in supply.items()}
    loads['GPU memory'] = peak_memory(work, s) / s.memory
    step += per_step['data']

    pairs = s.pairs * (1 - s.link_rot)
    # each data worker reads shards of its own
    readers = s.workers * (1 if s.reads_all else s.gpus)
    loads['shards'] = readers / math.ceil(pairs / s.shard_pairs)
    steps = max(1, int(pairs / s.batch))
    seconds = {k: v * steps for k, v in per_step.items()}
    blocked = rng.poisson(steps * read / s.shard_pairs * s.shard_failures)
    # batches that were read before keep the GPUs busy
    stall = max(0.0, s.shard_timeout - 2 * s.workers * step)
    seconds['blocked shards'] = float(blocked * stall)
    seconds['checkpoints'] = steps // s.save_interval * s.save_s
    hours = sum(seconds.values()) / HOUR
    expected = hours * s.gpus / s.failure_hours
    if expected > _MAX_FAILURES:
        raise ValueError(
            f'{expected:,.0f} failures are expected in {hours:,.0f} hours; '
            f'expected at most {_MAX_FAILURES:,}; such a run never ends: '
            'change failure_hours or what makes the run slow.'
        )
    failures = int(rng.poisson(expected))
    lost = rng.uniform(0, min(s.save_interval, steps), failures).sum() * step
    seconds['failures'] = float(lost + failures * s.restart_s)
    order = {name: seconds[name] for name in (*USEFUL, *IDLE)}
    return Result(order, steps, loads, steps * read * s.pair_bytes, failures)
