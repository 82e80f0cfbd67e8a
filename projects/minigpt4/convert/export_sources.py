# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Open the four parts of a model that is exported to a Hugging Face folder.

The modules are built without weights, for their names and shapes. The tensors
stay in their files until they are written.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from torch import nn

from ..llm.fingerprint import compare_fingerprints, folder_fingerprint
from ..llm.load import load_tokenizer
from ..llm.lora import compare_lora, lora_settings
from ..models import EfficientNetLite, EVAViT, LLMDecoder, QFormer
from ..models.data_preprocessor import ImageNormalizer
from ..models.projector import build_head
from ..models.vision import build_backbone, build_neck
from ..models.vision_fingerprint import (
    compare_vision_fingerprints,
    compute_vision_fingerprint,
)
from ..weights.hf_folder_files import read_json
from ..weights.key_report import KeyReport
from ..weights.layouts import from_layout
from ..weights.read import LazyTensor, open_tensors
from ..weights.state_dicts import as_weight
from .lora import merged_tensors, open_lora, refuse_lora_form
from .model_shapes import module_shapes

Tensors = dict[str, LazyTensor]
# names of the parts in weights/layouts.py
_LAYOUT_NAMES = {
    EVAViT: 'backbone',
    EfficientNetLite: 'efficientnet_lite',
    QFormer: 'neck',
}
# buffers in some LLM files
_BUFFERS = ('.inv_freq', '.masked_bias', '.attn.bias')


class EmptyModel(NamedTuple):
    """The modules of a model without weights, on the meta device."""

    backbone: Any
    neck: Any
    head: nn.Module
    decoder: LLMDecoder


class Parts(NamedTuple):
    """The tensors of a model by our names, those of the LLM by its own."""

    backbone: Tensors
    neck: Tensors
    head: Tensors
    llm: Tensors


def refuse_decoder(decoder: Mapping, folder: Path) -> None:
    """Refuse an LLM that no class of transformers can represent here.

    Args:
        decoder: The config of the decoder.
        folder: The LLM's folder.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It has LoRA of a form that cannot be merged, is quantised
            or is no causal LM.
    """
    refuse_lora_form(decoder.get('lora'))
    if decoder.get('quantization'):
        raise ValueError(
            'the config has quantisation (decoder.quantization), for which a '
            'Hugging Face folder has no place; set '
            'decoder.quantization=None, or serve the model with minigpt4.'
        )
    if not (folder / 'config.json').is_file():
        raise FileNotFoundError(
            f'the LLM {folder} is no local folder with a config.json; name '
            'the downloaded folder (--llm or MINIGPT4_LLM).'
        )
    config = read_json(folder / 'config.json')
    if config.get('quantization_config'):
        raise ValueError(
            f'the LLM in {folder} is quantised; give the unquantised one, '
            'and quantise the folder when it is served.'
        )
    if not is_causal(config.get('model_type')):
        raise ValueError(
            f'the LLM in {folder} is of type {config.get("model_type")}, '
            'which is no causal LM of transformers; the exported classes '
            'take nothing else.'
        )


def is_causal(model_type: Any) -> bool:
    """Whether transformers has a causal LM of a ``model_type``."""
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    )

    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return model_type in known and model_type in CONFIG_MAPPING


def build_empty(cfg: Config, folder: Path, text_config: dict) -> EmptyModel:
    """Build the modules of a model without weights.

    Args:
        cfg: The config of the model.
        folder: The LLM's folder.
        text_config: Its ``config.json``.
    """
    with torch.device('meta'):
        decoder = LLMDecoder(str(folder), arch=dict(text_config))
        decoder.tokenizer = load_tokenizer(str(folder))
        backbone = build_backbone(cfg.model.backbone)
        neck: Any = build_neck(cfg.model.neck, backbone)
        head = build_head(cfg.model.head, neck, decoder.hidden_size)
    return EmptyModel(backbone, neck, head, decoder)


def open_checkpoint(config: Any, checkpoint: Any) -> Tensors:
    """Open the tensors of the trained or published checkpoint.

    Raises:
        ValueError: There is none.
    """
    from mmpretrain.apis.model import ModelHub

    if checkpoint is None:
        if not isinstance(config, (Config, Path)) and ModelHub.has(config):
            checkpoint = ModelHub.get(config).weights
        if checkpoint is None:
            raise ValueError(
                f'{config} has no published checkpoint; name the trained one '
                '(--checkpoint).'
            )
    return open_tensors(checkpoint)


def check_fingerprint(
    known: dict[str, Any],
    cfg: Mapping[str, Any],
    model: EmptyModel,
    normalizer: ImageNormalizer,
    folder: Path,
    template: str,
    source: object,
) -> None:
    """Refuse a checkpoint of another LLM, vision part or template.

    Args:
        known: The fingerprint in the checkpoint.
        cfg: Config of the model.
        model: Its modules.
        normalizer: Its image normaliser.
        folder: The LLM's folder.
        template: Name of its prompt template.
        source: The checkpoint, for errors.

    Raises:
        ValueError: One of them differs.
    """
    lora = cfg['decoder'].get('lora')
    compare_lora(
        lora_settings(lora) if lora else None, known.get('lora'), source
    )
    if cfg.get('check_llm', True):
        compare_fingerprints(folder_fingerprint(folder), known, str(folder))
    vision = compute_vision_fingerprint(
        model.backbone, model.neck, normalizer, weights=False
    )
    if cfg.get('check_vision', True) and vision and known.get('vision'):
        compare_vision_fingerprints(vision, known['vision'], source)
    trained = known.get('template')
    # bare is that of stage 1
    differs = len({trained, template} - {None, 'bare'}) > 1
    if cfg.get('check_template', True) and differs:
        raise ValueError(
            f'{source} was trained with prompt_template={trained!r}, but the '
            f'config has {template!r}; set prompt_template={trained!r}, or '
            'model.check_template=False to export it anyway.'
        )


def open_parts(
    cfg: Config,
    model: EmptyModel,
    trained: Tensors,
    source: object,
    folder: Path,
    report: KeyReport,
    dtype: torch.dtype | None = None,
) -> Parts:
    """Open the tensors of all parts, with LoRA merged into the LLM.

    Args:
        cfg: The config.
        model: Its modules.
        trained: The tensors of the checkpoint.
        source: The checkpoint, for errors.
        folder: The LLM's folder.
        report: Unused tensors are added to it.
        dtype: Type of the weights that LoRA changes; None keeps theirs.

    Raises:
        ValueError: A tensor is missing or does not fit.
    """
    head, head_report = from_layout(
        'head', trained, module_shapes(model.head, 'head.')
    )
    head_report.check(source, 'the head', 'give a checkpoint of this model.')
    for name, lazy in head.items():
        as_weight(name, lazy.read(), source)
    backbone, neck = (
        _open_component(name, module, cfg.model[name], trained, report)
        for name, module in (
            ('backbone', model.backbone),
            ('neck', model.neck),
        )
    )
    llm, buffers = open_llm(folder, model.decoder)
    report.left_over |= buffers
    lora = cfg.model.decoder.get('lora')
    if lora:
        layers = open_lora(trained, lora, llm, source)
        llm = merged_tensors(llm, layers, lora, dtype)
    return Parts(backbone, neck, head, llm)


def _open_component(
    component: str,
    module: nn.Module,
    cfg: Mapping,
    trained: Tensors,
    report: KeyReport,
) -> Tensors:
    """Open the tensors of backbone or neck, from the checkpoint if trained.

    A neck without weights has none.

    Raises:
        ValueError: They have no file, or do not fit.
    """
    shapes = {
        name: tuple(tensor.shape)
        for name, tensor in module.state_dict().items()
        if tensor.is_floating_point()
    }
    if not shapes:
        return {}
    own = {
        name.removeprefix(f'{component}.'): tensor
        for name, tensor in trained.items()
        if name.startswith(f'{component}.')
    }
    source = 'the checkpoint' if own else cfg.get('checkpoint')
    if source is None:
        raise ValueError(
            f'the config names no {component}.checkpoint, so its weights '
            'would be random; set it to the file of the weights.'
        )
    found, component_report = from_layout(
        _LAYOUT_NAMES[type(module)],
        own or open_tensors(source),
        shapes,
        # a checkpoint is of this image size, a file may be of another
        adapt=module.weight_adapters() if isinstance(module, EVAViT) else None,
    )
    component_report.check(source, type(module).__name__)
    report.left_over |= component_report.left_over
    return found


def open_llm(
    folder: Path, decoder: LLMDecoder
) -> tuple[Tensors, dict[str, str]]:
    """Open the LLM's tensors.

    Returns:
        The weights, and the buffers that are not used: reason.

    Raises:
        ValueError: A tensor is missing, unknown or misshaped.
    """
    weights, buffers = {}, {}
    for name, tensor in open_tensors(folder).items():
        if name.endswith(_BUFFERS):
            buffers[name] = 'a buffer that transformers computes'
        else:
            weights[name] = tensor
    report = report_names(decoder.llm, weights)
    report.check(
        folder,
        'its LLM',
        'give a complete model (a Vicuna delta has to be merged first), whose '
        'tensors have in its files the names that transformers gives them.',
    )
    return weights, buffers


def report_names(model: nn.Module, tensors: Tensors) -> KeyReport:
    """Compare names and shapes of tensors with those of a model.

    A tied weight may be missing if the weight it is tied to is there.
    """
    report = KeyReport('huggingface')
    state = model.state_dict(keep_vars=True)
    names_of: dict[int, list[str]] = {}
    for name, tensor in state.items():
        names_of.setdefault(id(tensor), []).append(name)
        if name in tensors:
            found, expected = tensors[name].shape, tuple(tensor.shape)
            if found != expected:
                report.misshaped[name] = f'{found} instead of {expected}'
            else:
                report.matched.append(name)
    for names in names_of.values():
        if not any(name in tensors for name in names):
            report.missing.append(names[0])
    report.misshaped |= {
        name: 'unknown to transformers'
        for name in tensors
        if name not in state
    }
    return report
