# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Simulate stage 1 of a config on many GPUs, without a GPU.

    python tools/scaling.py configs/minigpt4/stage1.py --gpus 1 8 64
    python tools/scaling.py configs/minigpt4/stage1.py --pairs 5e9 \
        --set batch=4096 link_rot=0.3 reads_all=True

prints where the time goes, and the load of storage, network, data workers and
GPU memory. docs/scaling.md explains the model and compares it with measured
steps. ``Settings`` lists what ``--set`` changes.
"""

import argparse
import dataclasses
import math
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from minigpt4.utils.errors import add_debug_option, reports_errors

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
_MAX_FAILURES = 10**6


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
            the batch, or too many captions would be drawn.
    """
    s = settings
    for name in RANGES:
        check_setting(name, getattr(s, name))
    if s.batch % s.gpus:
        raise ValueError(
            f'{s.gpus} GPUs do not divide a batch of {s.batch}; expected a '
            'divisor of the batch; change --gpus or --set batch=NUMBER.'
        )
    if s.steps * s.batch > _MAX_DRAWN:
        raise ValueError(
            f'steps * batch is {s.steps * s.batch:,}; expected at most '
            f'{_MAX_DRAWN:,} captions that are drawn; set fewer steps.'
        )


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


def count_work(cfg: Any, bits: str = 'bf16') -> Work:
    """Count what the model of a config computes and stores.

    The vision parts run on the meta device under torch's FLOP counter. The
    LLM does not run there; its linear layers need two FLOPs for each weight
    and position.

    Args:
        cfg: The config.
        bits: Type of the LLM's weights, one of ``memory.BITS``.
    """
    import memory
    import torch
    from torch import nn
    from torch.utils.flop_counter import FlopCounterMode

    from minigpt4.registry import MODELS

    model_cfg = {**cfg.model, 'decoder': {**cfg.model.decoder, 'shard': False}}
    with torch.device('meta'):
        model = MODELS.build(model_cfg)
        images = torch.empty(1, 3, model.image_size, model.image_size)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.encode_images(images.to(next(model.backbone.parameters())))

    def layers(*modules: nn.Module) -> list[nn.Module]:
        kinds = (nn.Linear, nn.Conv2d)
        return [
            layer
            for module in modules
            for layer in module.modules()
            if isinstance(layer, kinds)
        ]

    llm = model.decoder.llm
    config = llm.config
    head = llm.get_output_embeddings()
    linear = [layer for layer in layers(llm) if layer is not head]
    weights = sum(layer.weight.numel() for layer in linear)
    last = 0  # weights that only supervised positions pass through
    if model.decoder.supports_packed_attention:
        mlp = llm.model.layers[-1].mlp
        last = sum(layer.weight.numel() for layer in layers(mlp))
    itemsize = 4 if bits == 'fp32' else 2
    width = config.num_attention_heads * memory.head_width(config)
    return Work(
        vision=counter.get_total_flops(),
        position=2 * (weights - last),
        attention=4 * width * config.num_hidden_layers,
        target=2 * (head.weight.numel() + last),
        image_positions=model.num_image_tokens,
        vision_calls=len(layers(model.backbone, model.neck)),
        llm_calls=len(linear),
        vision_bytes=itemsize * memory.numel(model.backbone)
        + 4 * memory.numel(model.neck),
        llm_bytes=itemsize * memory.numel(llm),
        layer_bytes=itemsize * weights,
        layers=config.num_hidden_layers,
        trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
        fixed_memory=memory.weight_bytes(model, bits),
        position_memory=memory.saved_bytes(config, bits),
        target_memory=(8 + itemsize) * config.vocab_size,
    )


def settings_of(cfg: Any, changes: dict[str, Any]) -> Settings:
    """Return the settings of a config of stage 1, with changes.

    Raises:
        ValueError: A change names no setting, or is not in ``RANGES``.
    """
    values = dict(
        batch=cfg.global_batch_size,
        micro_batch=cfg.model.get('micro_batch_size') or cfg.global_batch_size,
        shard=cfg.model.decoder.get('shard', False),
        workers=cfg.train_dataloader.num_workers,
        max_tokens=cfg.model.get('max_text_length') or 32,
    )
    fields = {field.name: field.type for field in dataclasses.fields(Settings)}
    for name, value in changes.items():
        if name not in fields:
            raise ValueError(
                f'there is no setting {name!r}; expected one of '
                f'{", ".join(fields)}.'
            )
        if fields[name] is int and isinstance(value, float):
            value = int(value) if value.is_integer() else value
        elif fields[name] is bool and value in (0, 1):
            value = bool(value)
        values[name] = value
    for name, value in values.items():
        check_setting(name, value)
    return Settings(**values)


def print_table(results: dict[int, Result], settings: Settings) -> None:
    """Print a Markdown table with a column for each number of GPUs."""
    print(f'| GPUs | {" | ".join(map(str, results))} |')
    print('|---|' + '---|' * len(results))

    def row(name: str, text: Any) -> None:
        print(f'| {name} | {" | ".join(map(text, results.values()))} |')

    one = min(results)

    def efficiency(gpus: int) -> float:
        speed = results[one].total * one / results[gpus].total
        return 100 * speed / gpus

    row('hours', lambda r: f'{r.total / HOUR:,.1f}')
    row('pairs/s', lambda r: f'{r.steps * settings.batch / r.total:,.0f}')
    print(
        f'| efficiency, % of {one} GPU | '
        f'{" | ".join(f"{efficiency(n):.0f}" for n in results)} |'
    )
    row('TB read', lambda r: f'{r.bytes_read / 1e12:,.2f}')
    for name in (*USEFUL, *IDLE):
        row(f'{name}, %', lambda r, n=name: f'{100 * r.shares[n]:.1f}')
    row('largest loss', lambda r: r.worst)
    for name in next(iter(results.values())).loads:
        row(f'load of {name}, %', lambda r, n=name: f'{100 * r.loads[n]:.0f}')
    row('failures', lambda r: str(r.failures))


def print_preparation(settings: Settings) -> None:
    """Print what the download of the pairs takes."""
    s = settings
    pairs = s.pairs * (1 - s.link_rot)
    print(
        f'{s.pairs:,.0f} links, {100 * s.link_rot:.0f} % dead: '
        f'{pairs:,.0f} pairs, {pairs * s.pair_bytes / 1e12:,.2f} TB, '
        f'{math.ceil(pairs / s.shard_pairs):,} shards; download '
        f'{s.pairs / s.links_per_s / HOUR:,.1f} hours with one machine'
    )


@reports_errors
def main() -> None:
    """Simulate."""
    from mmengine.config import Config

    from minigpt4.engine.cfg_options import CfgOptions

    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('config', help='a config of stage 1')
    parser.add_argument(
        '--gpus', type=int, nargs='+', default=[1, 2, 4, 8, 16, 32, 64]
    )
    parser.add_argument('--pairs', type=float, default=5.12e6)
    parser.add_argument(
        '--bits', default='bf16', choices=('fp32', 'bf16', '8-bit', '4-bit')
    )
    parser.add_argument(
        '--set',
        nargs='+',
        action=CfgOptions,
        default={},
        metavar='SETTING=VALUE',
    )
    add_debug_option(parser)
    args = parser.parse_args()
    cfg = Config.fromfile(args.config)
    settings = settings_of(cfg, {'pairs': args.pairs, **args.set})
    runs = [
        dataclasses.replace(settings, gpus=gpus) for gpus in sorted(args.gpus)
    ]
    for run in runs:
        check_settings(run)
    work = count_work(cfg, args.bits)
    print_preparation(settings)
    print()
    results = {run.gpus: simulate(work, run) for run in runs}
    print_table(results, settings)


if __name__ == '__main__':
    sys.exit(main())
