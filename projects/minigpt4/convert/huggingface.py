# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Our models as ``Blip2ForConditionalGeneration`` folders.

Weights go from file to file, one tensor at a time; the whole model is never
built. What that class has no place for (the fingerprint, the template, the
LLM's own small files) lies beside it, so that the way back loses no bit.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from ..llm.fingerprint import read_embeddings
from ..llm.load import (
    check_arch,
    load_config,
    load_tokenizer,
    local_llm,
    locate_llm,
)
from ..models import EVAViT, LLMDecoder, PatchMerge, QFormer
from ..models.checkpoint import FINGERPRINT, decode_fingerprint
from ..prompts import get_template
from ..registry import MODELS
from ..utils.atomic import replacing
from ..weights.folder_files import (
    copy_small_files,
    read_json,
    refuse_outside_links,
    write_json,
)
from ..weights.layouts import KeyReport, from_layout, to_layout
from ..weights.read import LazyTensor, open_tensors
from ..weights.state_dicts import as_weight, match_names
from ..weights.write import write_sharded
from .files import load_config as load_model_config
from .files import model_errors, real_output
from .huggingface_processor import write_processor

LLM_FOLDER = 'llm'  # in both folders: the LLM's own small files
NOTES = 'minigpt4.json'  # in the Hugging Face folder: what it cannot say
LLM_PREFIX = 'language_model.'
HEAD_NAMES = {f'head.layers.0.{x}' for x in ('weight', 'bias')}
# transformers keeps these in fp32
_FULL_PRECISION = ('qformer.', 'query_tokens')
# settings for which our architecture has no other value. The eps is that of
# the blocks; transformers gives ln_vision the same, where ours has 1e-5
VISION = dict(hidden_act='gelu', layer_norm_eps=1e-6, qkv_bias=True)
Q_FORMER = dict(hidden_act='gelu', layer_norm_eps=1e-12)
Tensors = dict[str, LazyTensor]


def export_huggingface(
    config: 'str | Path | Config',
    checkpoint: 'str | Path | None',
    out: 'str | Path',
    *,
    llm: 'str | Path | None' = None,
    dtype: str | None = None,
) -> KeyReport:
    """Write a folder that transformers alone loads and lets speak.

    Args:
        config: A name of the model hub, a config or its file.
        checkpoint: The trained checkpoint; None takes the published one.
        out: The folder to write; it stands there whole or not at all.
        llm: Folder of the LLM; by default the config's, or ``MINIGPT4_LLM``.
        dtype: Type of all weights but the Q-Former's, which transformers
            keeps in fp32; by default each has the type of its file.

    Returns:
        Matched are the folder's tensors, left over those of the sources.

    Raises:
        FileNotFoundError: A source is missing.
        ValueError: The sources do not fit, or the class has no place for a
            part of the model.
    """
    cfg = load_model_config(
        str(config) if isinstance(config, Path) else config
    )
    with model_errors(cfg):
        folder = Path(locate_llm(str(llm or cfg.model.decoder.name_or_path)))
        _refuse_decoder(cfg.model.decoder, folder)
        local_llm(str(folder))
        refuse_outside_links(folder)
        text_config = read_json(folder / 'config.json')
        check_arch(
            str(folder),
            load_config(folder),
            cfg.model.decoder.get('arch') or {},
        )
        backbone, neck, head, decoder = _empty_parts(cfg, folder, text_config)
    trained = _open_checkpoint(config, checkpoint)
    mark = match_names(trained, {FINGERPRINT}, checkpoint or config)
    fingerprint = trained.get(mark.get(FINGERPRINT, FINGERPRINT))
    if fingerprint is not None and cfg.model.get('check_llm', True):
        read_embeddings(decoder, folder)
        decoder.check_fingerprint(decode_fingerprint(fingerprint.read()))
    report = KeyReport('huggingface')
    tensors: Tensors = {}
    for part, module in (('backbone', backbone), ('neck', neck)):
        found = _open_part(part, module, cfg.model[part], trained, report)
        tensors |= to_layout(part, 'huggingface', found)
    found, heads = from_layout('head', trained, shapes_of(head, 'head.'))
    heads.check(
        checkpoint or config, 'the head', 'give a checkpoint of this model.'
    )
    for name, lazy in found.items():
        as_weight(name, lazy.read(), checkpoint or config)
    tensors |= to_layout('head', 'huggingface', found)
    weights, buffers = _weights_of_llm(folder, decoder)
    report.left_over |= buffers
    tensors |= {LLM_PREFIX + n: tensor for n, tensor in weights.items()}
    element = None if dtype is None else getattr(torch, dtype)
    tensors = {
        name: t if name.startswith(_FULL_PRECISION) else t.to(element, name)
        for name, t in tensors.items()
    }
    report.matched = list(tensors)

    template = get_template(cfg.model.get('prompt_template', 'vicuna_v0'))
    with replacing(real_output(out)) as part_folder:
        part_folder.mkdir()
        token = write_processor(
            part_folder,
            decoder.tokenizer,
            template,
            cfg.model.get('prompt', ''),
            backbone.img_size,
            neck.num_tokens,
            {'max_new_tokens': 300, **cfg.model.get('generation', {})},
        )
        settings = _blip2_config(backbone, neck, text_config, token, dtype)
        write_json(part_folder / 'config.json', settings)
        _check_names(part_folder, tensors)
        copy_small_files(folder, part_folder / LLM_FOLDER)
        write_json(
            part_folder / NOTES,
            dict(
                prompt_template=template.name,
                **{
                    FINGERPRINT: None
                    if fingerprint is None
                    else bytes(fingerprint.read().tolist()).decode()
                },
            ),
        )
        write_sharded(part_folder, tensors, progress='writing')
    return report


def _refuse_decoder(decoder: Mapping, folder: Path) -> None:
    for setting, what in (('lora', 'LoRA'), ('quantization', 'quantisation')):
        if decoder.get(setting):
            raise ValueError(
                f'the config has {what} (decoder.{setting}), for which a '
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


def is_causal(model_type: Any) -> bool:
    """Whether transformers has a causal LM of a type."""
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    )

    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    return model_type in known and model_type in CONFIG_MAPPING


def _empty_parts(
    cfg: Config, folder: Path, text_config: dict
) -> tuple[Any, Any, Any, LLMDecoder]:
    """The four parts without weights; refuses those of other shapes."""
    with torch.device('meta'):
        decoder = LLMDecoder(str(folder), arch=dict(text_config))
        decoder.tokenizer = load_tokenizer(str(folder))
        backbone = MODELS.build({**cfg.model.backbone})
        neck = MODELS.build({**cfg.model.neck})
        head = MODELS.build(
            {
                'in_channels': neck.out_channels,
                'out_channels': decoder.hidden_size,
                **cfg.model.head,
            }
        )
    for part, module, kind in (
        ('backbone', backbone, EVAViT),
        ('neck', neck, QFormer),
    ):
        if not isinstance(module, kind):
            hint = (
                ' (it has no Q-Former)' if type(module) is PatchMerge else ''
            )
            raise ValueError(
                f'the {part} is a {type(module).__name__}{hint}, for which '
                'Blip2ForConditionalGeneration has no place; expected '
                f'{kind.__name__}: serve this model with minigpt4 itself.'
            )
    if set(shapes_of(head, 'head.')) != HEAD_NAMES:
        raise ValueError(
            'the head has several layers, but Blip2ForConditionalGeneration '
            'has room for one; serve this model with minigpt4 itself.'
        )
    return backbone, neck, head, decoder


def shapes_of(
    module: nn.Module, prefix: str = ''
) -> dict[str, tuple[int, ...]]:
    """Names, behind a prefix, and shapes of a module's tensors."""
    return {
        prefix + name: tuple(tensor.shape)
        for name, tensor in module.state_dict().items()
    }


def _open_checkpoint(config: Any, checkpoint: Any) -> Tensors:
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


def _open_part(
    part: str, module: Any, cfg: Mapping, trained: Tensors, report: KeyReport
) -> Tensors:
    """A part's tensors: from the checkpoint where it was trained too."""
    own = {
        name.removeprefix(f'{part}.'): tensor
        for name, tensor in trained.items()
        if name.startswith(f'{part}.')
    }
    source = 'the checkpoint' if own else cfg.get('checkpoint')
    if source is None:
        raise ValueError(
            f'the config names no {part}.checkpoint, so its weights would be '
            'random; set it to the file of the weights.'
        )
    found, mine = from_layout(
        part, own or open_tensors(source), shapes_of(module)
    )
    mine.check(source, type(module).__name__)
    report.left_over |= mine.left_over
    return found


def _weights_of_llm(
    folder: Path, decoder: LLMDecoder
) -> tuple[Tensors, dict[str, str]]:
    """The LLM's tensors, and those that transformers computes itself."""
    weights, buffers = {}, {}
    for name, tensor in open_tensors(folder).items():
        if name.endswith(('.inv_freq', '.masked_bias', '.attn.bias')):
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
    """Names and shapes of tensors against those that a model wants.

    A tied weight may be absent where the one it is tied to is there.
    """
    report = KeyReport('huggingface')
    same: dict[int, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        same.setdefault(id(tensor), []).append(name)
        if name in tensors:
            found, want = tensors[name].shape, tuple(tensor.shape)
            if found != want:
                report.misshaped[name] = f'{found} instead of {want}'
            else:
                report.matched.append(name)
    for names in same.values():
        if not any(name in tensors for name in names):
            report.missing.append(names[0])
    known = model.state_dict()
    report.misshaped |= {
        name: 'unknown to transformers'
        for name in tensors
        if name not in known
    }
    return report


def _check_names(folder: Path, tensors: Tensors) -> None:
    """Refuse what the transformers at hand would not load as it is meant."""
    from transformers import Blip2ForConditionalGeneration

    with torch.device('meta'):
        model = Blip2ForConditionalGeneration(load_config(folder))
    _report_names(model, tensors).check(
        'the export',
        'Blip2ForConditionalGeneration',
        'this LLM has other names there: serve it with minigpt4 itself.',
    )


def _blip2_config(
    backbone: EVAViT,
    neck: QFormer,
    text_config: dict,
    image_token: int,
    dtype: str | None,
) -> dict:
    """``config.json``; the LLM's own stands in it as its authors wrote it."""
    block: Any = backbone.blocks[0]
    layer: Any = neck.layers[0]
    looks = [x.cross_attention is not None for x in neck.layers]
    stored = text_config.get('dtype') or text_config.get('torch_dtype')
    return dict(
        model_type='blip-2',
        architectures=['Blip2ForConditionalGeneration'],
        torch_dtype=dtype or stored or 'float32',
        image_token_index=image_token,
        num_query_tokens=neck.num_tokens,
        use_decoder_only_language_model=True,
        vision_config=dict(
            model_type='blip_2_vision_model',
            hidden_size=backbone.out_channels,
            intermediate_size=block.mlp.fc1.out_features,
            num_hidden_layers=len(backbone.blocks),
            num_attention_heads=block.attn.num_heads,
            image_size=backbone.img_size,
            patch_size=backbone.patch_embed.proj.kernel_size[0],
            **VISION,
        ),
        qformer_config=dict(
            model_type='blip_2_qformer',
            hidden_size=neck.out_channels,
            intermediate_size=layer.mlp.fc1.out_features,
            num_hidden_layers=len(neck.layers),
            num_attention_heads=layer.attention.num_heads,
            encoder_hidden_size=backbone.out_channels,
            cross_attention_frequency=(
                looks.index(True, 1) if any(looks[1:]) else len(looks)
            ),
            **Q_FORMER,
        ),
        text_config=text_config,
    )
