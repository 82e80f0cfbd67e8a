# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Import a FastVLM folder that this package exported as our files."""

from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any

import torch

from ..llm.load import build_empty
from ..models import EfficientNetLite, PatchTokens
from ..models.efficientnet_lite import ARCHS
from ..utils.atomic import replacing
from ..weights.hf_folder_files import read_json
from ..weights.key_report import KeyReport
from ..weights.layouts import from_layout
from ..weights.read import open_tensors
from ..weights.write import write_safetensors
from .constant_tensors import cut
from .convert_files import real_output
from .efficientnet_format import backbone_tensors, efficientnet_config
from .export_sources import Tensors
from .fast_vlm_format import HEAD_NAME, LLM_PREFIX, PROJECTOR, TOWER
from .folder_extras import HEAD_FILE, LLM_FOLDER, write_head_and_llm

BACKBONE_FILE = 'efficientnet_lite.safetensors'


def import_fast_vlm(
    folder: Path, out: 'str | Path', allow: Iterable[str] = ()
) -> KeyReport:
    """Split a FastVLM folder into our files.

    Args:
        folder: The folder, without code and links to other folders.
        out: The folder to write: ``efficientnet_lite.safetensors``,
            ``minigpt4.pth`` and ``llm/``. It is written completely or not at
            all.
        allow: Patterns of our names that may be missing or misshaped.

    Returns:
        ``matched`` are our names, ``left_over`` those of the folder that are
        not used.

    Raises:
        ValueError: It is not one of our exports, or is damaged.
    """
    config = read_json(folder / 'config.json')
    backbone, neck, position_bias = _find_vision(folder, config)
    tensors = open_tensors(folder)
    tower = _under(TOWER, tensors)
    vision, report = from_layout(
        'efficientnet_lite',
        backbone_tensors(backbone, neck, position_bias, tower),
        {
            name: tuple(tensor.shape)
            for name, tensor in backbone.state_dict().items()
            if tensor.is_floating_point()
        },
        allow,
    )
    report.check(folder, 'EfficientNetLite')
    constants = 'a constant of the exported class'
    report.left_over = dict.fromkeys(
        (TOWER + name for name in report.left_over), constants
    )
    head = {}
    for name, tensor in _under(PROJECTOR, tensors).items():
        layer, _, kind = name.partition('.')
        if layer == 'linear_1':
            head[f'head.layers.0.{kind}'] = tensor
        elif config['projector_hidden_act'] == 'linear':
            report.left_over[PROJECTOR + name] = constants
        else:
            head[f'head.layers.2.{kind}'] = tensor
    with torch.device('meta'):
        llm_class = build_empty(config['text_config'], 'float32')
    llm = {
        f'{llm_class.base_model_prefix}.{name}': tensor
        for name, tensor in _under(LLM_PREFIX, tensors).items()
    }
    if HEAD_NAME in tensors:
        llm[HEAD_NAME] = tensors[HEAD_NAME]
    if (folder / HEAD_FILE).is_file():  # the class has another form of it
        head = open_tensors(folder / HEAD_FILE)
    if 'head.prefix' in head:
        llm = _without_prefix_rows(llm, folder, config['text_config'])
    report.matched = [
        *(f'backbone.{name}' for name in report.matched),
        *head,
        *(f'decoder.llm.{name}' for name in llm),
    ]
    with replacing(real_output(out)) as temporary:
        temporary.mkdir()
        write_safetensors(
            temporary / BACKBONE_FILE, vision, progress=BACKBONE_FILE
        )
        write_head_and_llm(
            folder, temporary, config['text_config'], head, llm, report
        )
    return report


def _find_vision(
    folder: Path, config: dict[str, Any]
) -> tuple[EfficientNetLite, PatchTokens, bool]:
    """Return the vision parts without weights whose export has a config.

    Returns:
        Backbone and neck, and whether the head has position biases.

    Raises:
        ValueError: There are none.
    """
    vision = config.get('vision_config')
    if isinstance(vision, dict) and isinstance(vision.get('image_size'), int):
        side = -(-vision['image_size'] // 32)
        for arch in ARCHS:
            with torch.device('meta'):
                backbone = EfficientNetLite(arch, vision['image_size'])
            for grid, with_mean, position_bias in product(
                range(1, side + 1), (False, True), (False, True)
            ):
                neck = PatchTokens(
                    grid,
                    with_mean=with_mean,
                    in_channels=backbone.out_channels,
                    grid_size=backbone.grid_size,
                )
                if (
                    efficientnet_config(backbone, neck, position_bias)
                    == vision
                ):
                    return backbone, neck, position_bias
    raise ValueError(
        f'the vision encoder of {folder} is no EfficientNet-Lite that '
        'minigpt4 exported; other FastVLM folders cannot be imported.'
    )


def _without_prefix_rows(
    llm: Tensors, folder: Path, text_config: dict[str, Any]
) -> Tensors:
    """Restore the tables of tokens that the export extended in fp32.

    Args:
        llm: The tensors of the LLM.
        folder: The exported folder.
        text_config: Config of the LLM in it.
    """
    rows = read_json(folder / LLM_FOLDER / 'config.json')['vocab_size']
    dtypes = {t.dtype for t in llm.values() if t.dtype != torch.float32}
    dtype = dtypes.pop() if len(dtypes) == 1 else torch.float32
    return {
        name: cut(tensor, (rows,)).to(dtype, name)
        if tensor.shape[0] == text_config['vocab_size']
        else tensor
        for name, tensor in llm.items()
    }


def _under(prefix: str, tensors: Tensors) -> Tensors:
    """Return the tensors below a prefix, without it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
