# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Import a folder of Hugging Face as our files."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from ..llm.load import load_config
from ..models import EVAViT, QFormer
from ..utils.atomic import replacing
from ..weights.hf_folder_files import (
    read_json,
    refuse_outside_links,
)
from ..weights.hf_folder_safety import find_unsafe_files
from ..weights.key_report import KeyReport
from ..weights.layouts import from_layout, to_layout
from ..weights.read import open_tensors
from ..weights.write import write_safetensors
from .blip2_format import (
    HEAD_NAMES,
    LLM_PREFIX,
    Q_FORMER,
    VISION,
)
from .convert_files import FILES, real_output
from .export_sources import Tensors, is_causal
from .fast_vlm_import import import_fast_vlm
from .folder_extras import LLM_FOLDER, write_head_and_llm
from .model_shapes import build_empty_vision, module_shapes
from .model_shapes import load_config as load_model_config


def import_huggingface(
    folder: 'str | Path',
    out: 'str | Path',
    allow: Iterable[str] = (),
    model: 'str | Config | None' = None,
    with_opt: bool = False,
) -> KeyReport:
    """Split a BLIP-2, InstructBLIP or FastVLM folder into our files.

    Of FastVLM folders only our exports are read; see
    :func:`~.fast_vlm_import.import_fast_vlm`.

    Backbone and neck are written for every folder; projection and LLM only if
    MiniGPT-4 can use them: for a BLIP-2 with a causal LLM that is not
    BLIP-2's own OPT.

    Args:
        folder: The folder, with one weight file or shards.
        out: The folder to write: ``eva_vit.safetensors``,
            ``q_former.safetensors`` and, if they can be used,
            ``minigpt4.pth`` and ``llm/``. It is written completely or not at
            all.
        allow: Patterns of our names that may be missing or misshaped.
        model: The model whose shapes are expected, a name in the model hub or
            a config; by default the shapes of the folder's config.
        with_opt: Whether projection and LLM are written for BLIP-2's own OPT
            too, to train this BLIP-2 further.

    Returns:
        ``matched`` are our names, ``left_over`` those of the folder that are
        not used.

    Raises:
        FileNotFoundError: The folder has no config or lacks a shard.
        ValueError: It is of another architecture, is damaged, names code to
            run, or has links to files outside it.
    """
    folder = Path(folder)
    for source in (folder, folder / LLM_FOLDER):
        if source.is_dir():
            refuse_outside_links(source, folder)
            for fault in find_unsafe_files(source):
                raise fault.error()
    if _is_fast_vlm(folder):
        return import_fast_vlm(folder, out, allow)
    config = _read_blip2_config(folder)
    report = KeyReport('huggingface', allowed=tuple(allow))
    backbone, neck = _build_empty(folder, model, report)
    tensors = open_tensors(folder)
    components: dict[str, Tensors] = {}
    for component, module in (('backbone', backbone), ('neck', neck)):
        components[component], own_report = from_layout(
            component, tensors, module_shapes(module), allow
        )
        own_report.check(folder, type(module).__name__)
        report.matched += [f'{component}.{n}' for n in own_report.matched]
        report.missing += [f'{component}.{n}' for n in own_report.missing]
    used = {
        name
        for component, own in components.items()
        for name in to_layout(component, 'huggingface', own)
    }
    text_config = config.get('text_config', {})
    reason = _reason_without_llm(config, with_opt)
    head: Tensors = {}
    llm: Tensors = {}
    if reason is None:
        llm_width, neck_width = text_config['hidden_size'], neck.out_channels
        bias, weight = sorted(HEAD_NAMES)
        shapes = {bias: (llm_width,), weight: (llm_width, neck_width)}
        head, own_report = from_layout('head', tensors, shapes)
        own_report.check(folder, 'the head')
        llm = {
            name.removeprefix(LLM_PREFIX): tensor
            for name, tensor in tensors.items()
            if name.startswith(LLM_PREFIX)
        }
        report.matched += list(head)
        report.matched += [f'decoder.llm.{name}' for name in llm]
        used |= set(to_layout('head', 'huggingface', head))
        used |= {LLM_PREFIX + name for name in llm}
    report.left_over |= {
        name: _reason_unused(name, reason)
        for name in tensors
        if name not in used
    }
    with replacing(real_output(out)) as temporary:
        temporary.mkdir()
        for component, own in components.items():
            file = temporary / FILES[component]
            write_safetensors(file, own, progress=file.name)
        if reason is None:
            write_head_and_llm(
                folder, temporary, text_config, head, llm, report
            )
    return report


def _is_fast_vlm(folder: Path) -> bool:
    file = folder / 'config.json'
    return file.is_file() and read_json(file).get('model_type') == 'fast_vlm'


def _read_blip2_config(folder: Path) -> dict[str, Any]:
    """Read the ``config.json`` of a BLIP-2 or InstructBLIP folder.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is of another model.
    """
    if not (folder / 'config.json').is_file():
        raise FileNotFoundError(
            f'{folder} has no config.json; give a folder of '
            'Blip2ForConditionalGeneration or InstructBlip.'
        )
    config = read_json(folder / 'config.json')
    if config.get('model_type') not in ('blip-2', 'instructblip'):
        raise ValueError(
            f'{folder} holds a model of type {config.get("model_type")}; '
            'expected blip-2 or instructblip.'
        )
    return config


def _build_empty(
    folder: Path, model: 'str | Config | None', report: KeyReport
) -> tuple[EVAViT, QFormer]:
    """Build backbone and neck without weights, in the sizes of the folder.

    Args:
        folder: The folder.
        model: A model whose sizes are used instead.
        report: Settings with another eps are added to it.

    Raises:
        ValueError: A setting has a value that our architecture has not.
    """
    config: Any = load_config(folder)  # with defaults for what it omits
    vision, q_former = config.vision_config, config.qformer_config
    for name, found, fixed in (
        ('vision_config', vision, VISION),
        ('qformer_config', q_former, Q_FORMER),
    ):
        for key, expected in fixed.items():
            value = getattr(found, key, expected)
            if value == expected:
                continue
            if key != 'layer_norm_eps':
                raise ValueError(
                    f'{folder} has {name}.{key}={value}; MiniGPT-4 has '
                    f'{expected} there and no other.'
                )
            # early folders have 1e-5, for the same weights
            report.left_over[f'{name}.{key}'] = f'{value}; ours is {expected}'
    with torch.device('meta'):
        if model is not None:
            cfg = load_model_config(model).model
            return build_empty_vision(cfg.backbone, cfg.neck)
        return (
            EVAViT(
                arch=dict(
                    width=vision.hidden_size,
                    depth=vision.num_hidden_layers,
                    num_heads=vision.num_attention_heads,
                    mlp_width=vision.intermediate_size,
                ),
                img_size=vision.image_size,
                patch_size=vision.patch_size,
            ),
            QFormer(
                in_channels=vision.hidden_size,
                num_queries=config.num_query_tokens,
                width=q_former.hidden_size,
                depth=q_former.num_hidden_layers,
                num_heads=q_former.num_attention_heads,
                mlp_width=q_former.intermediate_size,
                cross_every=q_former.cross_attention_frequency,
            ),
        )


def _reason_without_llm(
    config: dict[str, Any], with_opt: bool = False
) -> str | None:
    """Say why projection and LLM are not used; None if they are."""
    kind = config.get('text_config', {}).get('model_type', 'opt')
    if config['model_type'] == 'instructblip':
        return "InstructBLIP's, whose Q-Former reads the question too"
    if not is_causal(kind) or (kind == 'opt' and not with_opt):
        hint = ' (--with-opt writes them)' if kind == 'opt' else ''
        return f"BLIP-2's own, with {kind}, which MiniGPT-4 does not use{hint}"
    return None


def _reason_unused(name: str, reason_without_llm: str | None) -> str:
    """Say why a tensor of the folder is not used."""
    if reason_without_llm is not None and name.startswith(
        (LLM_PREFIX, 'language_proj')
    ):
        return reason_without_llm
    if name.startswith('qformer.'):
        return "the Q-Former's text path; MiniGPT-4 gives it no text"
    return 'unknown to this architecture'
