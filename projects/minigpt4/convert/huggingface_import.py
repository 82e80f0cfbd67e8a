# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""BLIP-2 and InstructBLIP folders of Hugging Face as files of ours."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor

from ..llm.fingerprint import fingerprint_of
from ..llm.load import load_config
from ..models import EVAViT, QFormer
from ..models.checkpoint import FINGERPRINT, encode_fingerprint
from ..registry import MODELS
from ..utils.atomic import replacing
from ..weights.folder_code import code_faults
from ..weights.folder_files import (
    copy_file,
    copy_small_files,
    read_json,
    refuse_outside_links,
    write_json,
)
from ..weights.layouts import KeyReport, from_layout, to_layout
from ..weights.read import open_tensors
from ..weights.write import write_safetensors, write_sharded
from .files import FILES, real_output
from .files import load_config as load_model_config
from .huggingface import (
    HEAD_NAMES,
    LLM_FOLDER,
    LLM_PREFIX,
    NOTES,
    Q_FORMER,
    VISION,
    Tensors,
    is_causal,
    shapes_of,
)


def import_huggingface(
    folder: 'str | Path',
    out: 'str | Path',
    allow: Iterable[str] = (),
    model: 'str | Config | None' = None,
) -> KeyReport:
    """Take a BLIP-2 or InstructBLIP folder apart into files of ours.

    Backbone and neck are taken from every such folder. Projection and LLM
    are taken as well where MiniGPT-4 could use them: a BLIP-2 whose LLM is a
    causal one and not BLIP-2's own OPT.

    Args:
        folder: The folder, of one file of weights or of shards.
        out: The folder to write: ``eva_vit.safetensors``,
            ``q_former.safetensors`` and, where they are taken,
            ``minigpt4.pth`` and ``llm/``. It stands there whole or not at
            all.
        allow: Patterns of our names that may be missing or misshaped.
        model: The model that it shall fit, a name of the hub or a config; by
            default whatever the folder holds is taken.

    Returns:
        Matched are our names, left over those of the folder.

    Raises:
        FileNotFoundError: The folder has no config or lacks a shard.
        ValueError: It is of another architecture, or damaged, wants code of
            its own, or has links to files outside it.
    """
    folder = Path(folder)
    for part_of_source in (folder, folder / LLM_FOLDER):
        if part_of_source.is_dir():
            refuse_outside_links(part_of_source, folder)
            for fault in code_faults(part_of_source):
                raise fault.error()
    config = _read_blip2_config(folder)
    report = KeyReport('huggingface', allowed=tuple(allow))
    backbone, neck = _parts_of(folder, model, report)
    tensors = open_tensors(folder)
    taken: dict[str, Tensors] = {}
    for part, module in (('backbone', backbone), ('neck', neck)):
        taken[part], mine = from_layout(
            part, tensors, shapes_of(module), allow
        )
        mine.check(folder, type(module).__name__)
        report.matched += [f'{part}.{name}' for name in mine.matched]
        report.missing += [f'{part}.{name}' for name in mine.missing]
    used = {
        name
        for part, found in taken.items()
        for name in to_layout(part, 'huggingface', found)
    }
    text_config = config['text_config']
    why = _why_silent(config)
    head: Tensors = {}
    weights: Tensors = {}
    if why is None:
        wide, narrow = text_config['hidden_size'], neck.out_channels
        shapes = dict(zip(sorted(HEAD_NAMES), ((wide,), (wide, narrow))))
        head, mine = from_layout('head', tensors, shapes)
        mine.check(folder, 'the head')
        weights = {
            name.removeprefix(LLM_PREFIX): tensor
            for name, tensor in tensors.items()
            if name.startswith(LLM_PREFIX)
        }
        report.matched += list(head)
        report.matched += [f'decoder.llm.{name}' for name in weights]
        used |= set(to_layout('head', 'huggingface', head))
        used |= {LLM_PREFIX + name for name in weights}
    report.left_over |= {
        name: _why_left(name, why) for name in tensors if name not in used
    }
    with replacing(real_output(out)) as part_folder:
        part_folder.mkdir()
        for part, found in taken.items():
            file = part_folder / FILES[part]
            write_safetensors(file, found, progress=file.name)
        if why is None:
            _write_llm(folder, part_folder / LLM_FOLDER, text_config, weights)
            state = {name: lazy.read() for name, lazy in head.items()}
            fingerprint = _fingerprint(folder, part_folder / LLM_FOLDER)
            if fingerprint is None:
                report.left_over[FINGERPRINT] = (
                    'there is no tokenizer to compute it with'
                )
            else:
                state[FINGERPRINT] = fingerprint
            torch.save(
                dict(state_dict=state, meta={}), part_folder / FILES['head']
            )
    return report


def _read_blip2_config(folder: Path) -> dict:
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


def _parts_of(
    folder: Path, model: 'str | Config | None', report: KeyReport
) -> tuple[EVAViT, QFormer]:
    """Backbone and neck without weights, of a folder's or a model's sizes."""
    whole: Any = load_config(folder)  # fills in what it omits
    vision, q_former = whole.vision_config, whole.qformer_config
    for name, found, fixed in (
        ('vision_config', vision, VISION),
        ('qformer_config', q_former, Q_FORMER),
    ):
        for key, want in fixed.items():
            value = getattr(found, key, want)
            if value == want:
                continue
            if key != 'layer_norm_eps':
                raise ValueError(
                    f'{folder} has {name}.{key}={value}; MiniGPT-4 has {want} '
                    'there and no other.'
                )
            # early folders have 1e-5, for the same weights
            report.left_over[f'{name}.{key}'] = f'{value}; ours is {want}'
    with torch.device('meta'):
        if model is not None:
            cfg = load_model_config(model).model
            return MODELS.build({**cfg.backbone}), MODELS.build({**cfg.neck})
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
                num_queries=whole.num_query_tokens,
                width=q_former.hidden_size,
                depth=q_former.num_hidden_layers,
                num_heads=q_former.num_attention_heads,
                mlp_width=q_former.intermediate_size,
                cross_every=q_former.cross_attention_frequency,
            ),
        )


def _why_silent(config: dict) -> str | None:
    """Why projection and LLM are not taken; None where they are."""
    kind = config.get('text_config', {}).get('model_type', 'opt')
    if config['model_type'] == 'instructblip':
        return "InstructBLIP's, whose Q-Former reads the question too"
    if kind == 'opt' or not is_causal(kind):
        return f"BLIP-2's own, with {kind}, which MiniGPT-4 does not use"
    return None


def _why_left(name: str, why: str | None) -> str:
    if why is not None and name.startswith((LLM_PREFIX, 'language_proj')):
        return why
    if name.startswith('qformer.'):
        return "the Q-Former's text path; MiniGPT-4 gives it no text"
    return 'unknown to this architecture'


def _write_llm(
    source: Path, target: Path, text_config: dict, weights: Tensors
) -> None:
    """The LLM's folder: its own small files, or what can be told of them."""
    if (source / LLM_FOLDER).is_dir():
        copy_small_files(source / LLM_FOLDER, target)
    else:
        target.mkdir()
        write_json(target / 'config.json', text_config)
        for pattern in ('tokenizer*', 'special_tokens_map.json', '*.txt'):
            for file in sorted(source.glob(pattern)):
                copy_file(file, target / file.name)
    write_sharded(target, weights, progress=LLM_FOLDER)


def _fingerprint(folder: Path, llm: Path) -> Tensor | None:
    """The stored fingerprint, else the LLM's own, else None."""
    if (folder / NOTES).is_file():
        text = read_json(folder / NOTES).get(FINGERPRINT)
        if text is not None:
            return torch.tensor(list(text.encode()), dtype=torch.uint8)
    if not any(llm.glob('tokenizer*')):
        return None
    return encode_fingerprint(fingerprint_of(llm))
