# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Simulate stage 1 of a config on many GPUs, without a GPU.

    python tools/scaling.py configs/minigpt4/stage1.py --gpus 1 8 64
    python tools/scaling.py configs/minigpt4/stage1.py --pairs 5e9 \
        --set batch=4096 link_rot=0.3 reads_all=True

prints where the time goes, and the load of storage, network, data workers and
GPU memory. docs/scaling.md explains the model and compares it with measured
steps. ``Settings`` in ``minigpt4/scaling/settings.py`` lists what ``--set``
changes.
"""

import argparse
import dataclasses
import math
import sys
from typing import Any

from minigpt4.scaling.settings import (
    Settings,
    check_setting,
    check_settings,
)
from minigpt4.scaling.simulation import (
    HOUR,
    IDLE,
    USEFUL,
    Result,
    Work,
    simulate,
)
from minigpt4.utils.errors import add_debug_option, reports_errors


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
        ValueError: The config is none of stage 1, or a change names no
            setting or is not in ``RANGES``.
    """
    if 'global_batch_size' not in cfg or 'train_dataloader' not in cfg:
        raise ValueError(
            f'{cfg.filename} has no global_batch_size or train_dataloader; '
            'give a config of stage 1, e.g. configs/minigpt4/stage1.py.'
        )
    if 'sources' not in cfg.train_dataloader.dataset:
        raise ValueError(
            f'{cfg.filename} does not train on shards (it has no '
            'train_dataloader.dataset.sources); give a config of stage 1, '
            'e.g. configs/minigpt4/stage1.py.'
        )
    values = dict(
        batch=cfg.global_batch_size,
        micro_batch=cfg.model.get('micro_batch_size') or cfg.global_batch_size,
        shard=cfg.model.decoder.get('shard', False),
        # without data workers the training process does their work
        workers=max(cfg.train_dataloader.num_workers, 1),
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
    if 'gpus' in args.set:
        raise ValueError('--gpus sets the number of GPUs; omit gpus in --set.')
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
