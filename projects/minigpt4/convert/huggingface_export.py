# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Export a model as a ``Blip2ForConditionalGeneration`` folder.

Weights are copied from file to file, one tensor at a time; the complete model
is never built. What that class cannot store (the fingerprint, the template,
the LLM's small files) is written to further files, so that the import
restores every bit.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from torch import nn

from ..llm.fingerprint import (
    FINGERPRINT,
    compare_fingerprints,
    decode_fingerprint,
    folder_fingerprint,
)
from ..llm.load import check_arch, load_config, load_tokenizer
from ..llm.locate import checked_llm_folder, locate_llm
from ..models import EVAViT, LLMDecoder, PatchMerge, QFormer
from ..models.projector import build_head
from ..prompts import get_template
from ..utils.atomic import replacing
from ..weights.hf_folder_files import (
    copy_small_files,
    read_json,
    refuse_outside_links,
    write_json,
)
from ..weights.key_report import KeyReport
from ..weights.layouts import from_layout, to_layout
from ..weights.read import open_tensors
from ..weights.state_dicts import as_weight, match_names
from ..weights.write import write_sharded
from .blip2_format import (
    EXTRA_FILE,
    HEAD_NAMES,
    LLM_FOLDER,
    LLM_PREFIX,
    Tensors,
    blip2_config,
    is_causal,
)
from .convert_files import real_output
from .huggingface_processor import write_processor
from .model_shapes import (
    build_empty_vision,
    explain_build_errors,
    module_shapes,
)
from .model_shapes import load_config as load_model_config

# transformers keeps these in fp32
_FP32_PREFIXES = ('qformer.', 'query_tokens')
# buffers in some LLM files
_BUFFERS = ('.inv_freq', '.masked_bias', '.attn.bias')


class EmptyModel(NamedTuple):
    """The modules of a model without weights, on the meta device."""

    backbone: EVAViT
    neck: QFormer
    head: nn.Module
    decoder: LLMDecoder


def export_huggingface(
    config: 'str | Path | Config',
    checkpoint: 'str | Path | None',
    out: 'str | Path',
    *,
    llm: 'str | Path | None' = None,
    dtype: str | None = None,
) -> KeyReport:
    """Write a folder that transformers alone can load and generate with.

    Args:
        config: A name in the model hub, a config or its file.
        checkpoint: The trained checkpoint; None is the published one.
        out: The folder to write; it is written completely or not at all.
        llm: Folder of the LLM; by default the config's, or ``MINIGPT4_LLM``.
        dtype: Type of all weights but the Q-Former's, which transformers
            keeps in fp32; by default each has the type of its file.

    Returns:
        ``matched`` are the tensors of the folder, ``left_over`` those of the
        sources that are not used.

    Raises:
        FileNotFoundError: A source is missing.
        ValueError: The sources do not fit, or the class cannot represent the
            model.
    """
    cfg = load_model_config(
        str(config) if isinstance(config, Path) else config
    )
    with explain_build_errors(cfg):
        folder = Path(locate_llm(str(llm or cfg.model.decoder.name_or_path)))
        _refuse_decoder(cfg.model.decoder, folder)
        checked_llm_folder(str(folder))
        refuse_outside_links(folder)
        text_config = read_json(folder / 'config.json')
        check_arch(
            str(folder),
            load_config(folder),
            cfg.model.decoder.get('arch') or {},
        )
        model = _build_empty(cfg, folder, text_config)
    trained = _open_checkpoint(config, checkpoint)
    matches = match_names(trained, {FINGERPRINT}, checkpoint or config)
    fingerprint = trained.get(matches.get(FINGERPRINT, FINGERPRINT))
    if fingerprint is not None and cfg.model.get('check_llm', True):
        compare_fingerprints(
            folder_fingerprint(folder),
            decode_fingerprint(fingerprint.read()),
            str(folder),
        )
    report = KeyReport('huggingface')
    tensors = _collect_tensors(
        cfg, model, trained, checkpoint or config, folder, report
    )
    torch_type = None if dtype is None else getattr(torch, dtype)
    tensors = {
        name: t if name.startswith(_FP32_PREFIXES) else t.to(torch_type, name)
        for name, t in tensors.items()
    }
    report.matched = list(tensors)

    template = get_template(cfg.model.get('prompt_template', 'vicuna_v0'))
    with replacing(real_output(out)) as temporary:
        temporary.mkdir()
        image_token_id = write_processor(
            temporary,
            model.decoder.tokenizer,
            template,
            cfg.model.get('prompt', ''),
            model.backbone.img_size,
            model.neck.num_tokens,
            {'max_new_tokens': 300, **cfg.model.get('generation', {})},
        )
        settings = blip2_config(
            model.backbone, model.neck, text_config, image_token_id, dtype
        )
        write_json(temporary / 'config.json', settings)
        _check_names(temporary, tensors)
        copy_small_files(folder, temporary / LLM_FOLDER)
        write_json(
            temporary / EXTRA_FILE,
            dict(
                prompt_template=template.name,
                **{
                    FINGERPRINT: None
                    if fingerprint is None
                    else bytes(fingerprint.read().tolist()).decode()
                },
            ),
        )
        write_sharded(temporary, tensors, progress='writing')
    return report


def _refuse_decoder(decoder: Mapping, folder: Path) -> None:
    """Refuse an LLM that the class cannot represent.

    Args:
        decoder: The config of the decoder.
        folder: The LLM's folder.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It has LoRA, is quantised or is no causal LM.
    """
    for setting, feature in (
        ('lora', 'LoRA'),
        ('quantization', 'quantisation'),
    ):
        if decoder.get(setting):
            raise ValueError(
                f'the config has {feature} (decoder.{setting}), for which a '
                'Blip2ForConditionalGeneration folder has no place; set '
                f'decoder.{setting}=None, or serve the model with minigpt4.'
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
            'which is no causal LM of transformers; '
            'Blip2ForConditionalGeneration takes nothing else.'
        )


def _build_empty(cfg: Config, folder: Path, text_config: dict) -> EmptyModel:
    """Build the model without weights.

    Raises:
        ValueError: The class cannot represent it.
    """
    with torch.device('meta'):
        decoder = LLMDecoder(str(folder), arch=dict(text_config))
        decoder.tokenizer = load_tokenizer(str(folder))
        backbone, neck = build_empty_vision(cfg.model.backbone, cfg.model.neck)
        head = build_head(
            cfg.model.head, neck.out_channels, decoder.hidden_size
        )
    for name, module, kind in (
        ('backbone', backbone, EVAViT),
        ('neck', neck, QFormer),
    ):
        if not isinstance(module, kind):
            hint = (
                ' (it has no Q-Former)' if type(module) is PatchMerge else ''
            )
            raise ValueError(
                f'the {name} is a {type(module).__name__}{hint}, for which '
                'Blip2ForConditionalGeneration has no place; expected '
                f'{kind.__name__}: serve this model with minigpt4 itself.'
            )
    if set(module_shapes(head, 'head.')) != HEAD_NAMES:
        raise ValueError(
            'the head has several layers, but Blip2ForConditionalGeneration '
            'has room for one; serve this model with minigpt4 itself.'
        )
    return EmptyModel(backbone, neck, head, decoder)


def _open_checkpoint(config: Any, checkpoint: Any) -> Tensors:
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


def _collect_tensors(
    cfg: Config,
    model: EmptyModel,
    trained: Tensors,
    source: object,
    folder: Path,
    report: KeyReport,
) -> Tensors:
    """Collect all tensors of the folder under their names there.

    Args:
        cfg: The config.
        model: Its modules.
        trained: The tensors of the checkpoint.
        source: The checkpoint, for errors.
        folder: The LLM's folder.
        report: Unused tensors are added to it.
    """
    tensors: Tensors = {}
    modules: tuple[tuple[str, nn.Module], ...] = (
        ('backbone', model.backbone),
        ('neck', model.neck),
    )
    for component, module in modules:
        found = _open_component(
            component, module, cfg.model[component], trained, report
        )
        tensors |= to_layout(component, 'huggingface', found)
    head, head_report = from_layout(
        'head', trained, module_shapes(model.head, 'head.')
    )
    head_report.check(source, 'the head', 'give a checkpoint of this model.')
    for name, lazy in head.items():
        as_weight(name, lazy.read(), source)
    tensors |= to_layout('head', 'huggingface', head)
    weights, buffers = _open_llm(folder, model.decoder)
    report.left_over |= buffers
    return tensors | {LLM_PREFIX + name: t for name, t in weights.items()}


def _open_component(
    component: str,
    module: nn.Module,
    cfg: Mapping,
    trained: Tensors,
    report: KeyReport,
) -> Tensors:
    """Open the tensors of backbone or neck, from the checkpoint if trained.

    Raises:
        ValueError: They have no file, or do not fit.
    """
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
        component,
        own or open_tensors(source),
        module_shapes(module),
        # a checkpoint is of this image size, a file may be of another
        adapt=module.weight_adapters() if isinstance(module, EVAViT) else None,
    )
    component_report.check(source, type(module).__name__)
    report.left_over |= component_report.left_over
    return found


def _open_llm(
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
    report = _report_names(decoder.llm, weights)
    report.check(
        folder,
        'its LLM',
        'give a complete model (a Vicuna delta has to be merged first), whose '
        'tensors have in its files the names that transformers gives them.',
    )
    return weights, buffers


def _report_names(model: nn.Module, tensors: Tensors) -> KeyReport:
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


def _check_names(folder: Path, tensors: Tensors) -> None:
    """Refuse tensors that the installed transformers would not load.

    Args:
        folder: The folder, with its ``config.json``.
        tensors: Its tensors.

    Raises:
        ValueError: A name or a shape differs.
    """
    from transformers import Blip2ForConditionalGeneration

    with torch.device('meta'):
        model = Blip2ForConditionalGeneration(load_config(folder))
    _report_names(model, tensors).check(
        'the export',
        'Blip2ForConditionalGeneration',
        'this LLM has other names there: serve it with minigpt4 itself.',
    )
