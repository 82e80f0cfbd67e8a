# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Find what would end a training or a test before anything runs."""

from collections.abc import Mapping
from typing import Any

from ..llm.lora import require_peft


def check_packages(name: str, model: Mapping[str, Any]) -> None:
    """Check that a training has the packages that its model needs.

    Args:
        name: The name of the training.
        model: The settings of its model.

    Raises:
        ImportError: It has LoRA, and peft is not installed.
    """
    if not (model.get('decoder') or {}).get('lora'):
        return
    try:
        require_peft()
    except ImportError as error:
        raise ImportError(
            f'{name}: {error} Or choose other trainings with --only.'
        ) from error


def check_checkpoint_fits(
    writer: str,
    written: Mapping[str, Any],
    reader: str,
    read: Mapping[str, Any],
) -> None:
    """Check that the checkpoints of one config fit the model of another.

    Args:
        writer: The file of the config that trains.
        written: The settings of its model.
        reader: The file of the config that reads the checkpoints.
        read: The settings of its model.

    Raises:
        ValueError: They have other heads, or one trains a vision module that
            is frozen in the other.
    """
    for name in ('backbone', 'neck'):
        if _is_trained(written, name) and not _is_trained(read, name):
            raise ValueError(
                f'{writer} trains model.{name} (frozen=False), but {reader}, '
                'which reads its checkpoints, does not; set it in both, as in '
                'configs/minigpt4/*_ablation_c.py.'
            )
    if written.get('head') != read.get('head'):
        raise ValueError(
            f'model.head of {writer} is not that of {reader}, which reads its '
            'checkpoints; set the same in both, as in '
            'configs/minigpt4/*_ablation_b.py.'
        )


def _is_trained(model: Mapping[str, Any], name: str) -> bool:
    return (model.get(name) or {}).get('frozen') is False
