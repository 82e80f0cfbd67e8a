# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Export a model as a folder that transformers alone can run.

Weights are copied from file to file, one tensor at a time; the complete model
is never built. What the classes of transformers cannot store (the
fingerprint, the template, the LLM's small files) is written to further files,
so that the import restores every bit.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from mmengine.config import Config

from .. import compat
from ..llm.fingerprint import (
    FINGERPRINT,
    decode_fingerprint,
)
from ..llm.load import check_arch, load_config
from ..llm.locate import checked_llm_folder, locate_llm
from ..models.data_preprocessor import MEAN, STD, ImageNormalizer
from ..prompts import Template, get_template
from ..registry import MODELS
from ..utils.atomic import replacing
from ..weights.hf_folder_files import (
    read_json,
    refuse_outside_links,
    write_json,
)
from ..weights.key_report import KeyReport
from ..weights.state_dicts import match_names
from ..weights.write import write_sharded
from .blip2_format import Blip2Format
from .convert_files import real_output
from .export_sources import (
    EmptyModel,
    Parts,
    Tensors,
    build_empty,
    check_fingerprint,
    open_checkpoint,
    open_parts,
    refuse_decoder,
    report_names,
)
from .fast_vlm_format import FastVlmFormat
from .folder_extras import write_extras
from .huggingface_processor import (
    ImageSettings,
    PromptSettings,
    write_processor,
)
from .model_shapes import explain_build_errors
from .model_shapes import load_config as load_model_config
from .prefix_tokens import (
    prefix_embeddings,
    prefix_token_names,
    with_prefix_rows,
)


class FolderFormat(Protocol):
    """How a class of transformers stores a model.

    Attributes:
        class_name: The class.
        parts: Classes of the backbone and of the neck that it takes.
        fp32_prefixes: Begin of the names of tensors that it keeps in fp32.
    """

    class_name: str
    parts: tuple[type, ...]
    fp32_prefixes: tuple[str, ...]

    def refuse(self, model: EmptyModel) -> None:
        """Raise ``ValueError`` if the class cannot represent a model."""

    def tensors(self, model: EmptyModel, parts: Parts) -> Tensors:
        """Rename all tensors as the class has them."""

    def config(
        self,
        model: EmptyModel,
        text_config: dict[str, Any],
        image_token_id: int,
    ) -> dict[str, Any]:
        """Return the ``config.json`` of a folder, but for its dtype."""


_FORMATS: tuple[FolderFormat, ...] = (Blip2Format(), FastVlmFormat())


def export_huggingface(
    config: 'str | Path | Config',
    checkpoint: 'str | Path | None',
    out: 'str | Path',
    *,
    llm: 'str | Path | None' = None,
    dtype: str | None = None,
) -> KeyReport:
    """Write a folder that transformers alone can load and generate with.

    LoRA is merged into its LLM.

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
        ValueError: The sources do not fit, or no class of transformers can
            represent the model.
    """
    cfg = load_model_config(
        str(config) if isinstance(config, Path) else config
    )
    with explain_build_errors(cfg):
        folder = Path(locate_llm(str(llm or cfg.model.decoder.name_or_path)))
        refuse_decoder(cfg.model.decoder, folder)
        checked_llm_folder(str(folder))
        refuse_outside_links(folder)
        text_config = read_json(folder / 'config.json')
        check_arch(
            str(folder),
            load_config(folder),
            cfg.model.decoder.get('arch') or {},
        )
        format = _choose_format(cfg.model)
        model = build_empty(cfg, folder, text_config)
        format.refuse(model)
    trained = open_checkpoint(config, checkpoint)
    matches = match_names(trained, {FINGERPRINT}, checkpoint or config)
    fingerprint = trained.get(matches.get(FINGERPRINT, FINGERPRINT))
    template = get_template(
        cfg.model.get('prompt_template', 'vicuna_v0'), model.decoder.tokenizer
    )
    mean, std = _normalization(cfg, model)
    if fingerprint is not None:
        check_fingerprint(
            decode_fingerprint(fingerprint.read()),
            cfg.model,
            model,
            ImageNormalizer(mean, std),
            folder,
            template.name,
            checkpoint or config,
        )
    report = KeyReport('huggingface')
    torch_type = None if dtype is None else getattr(torch, dtype)
    parts = open_parts(
        cfg, model, trained, checkpoint or config, folder, report, torch_type
    )
    prefix = prefix_embeddings(parts.head)
    names = [] if prefix is None else prefix_token_names(len(prefix))
    if prefix is not None:
        first = len(model.decoder.tokenizer)
        llm_tensors, rows = with_prefix_rows(
            model, parts.llm, prefix, range(first, first + len(prefix))
        )
        parts = parts._replace(llm=llm_tensors)
        exported_llm_config = {**text_config, 'vocab_size': rows}
    else:
        exported_llm_config = text_config
    tensors = {
        name: t
        if name.startswith(format.fp32_prefixes)
        else t.to(torch_type, name)
        for name, t in format.tensors(model, parts).items()
    }
    report.matched = list(tensors)

    with replacing(real_output(out)) as temporary:
        temporary.mkdir()
        image_token_id = write_processor(
            temporary,
            model.decoder.tokenizer,
            PromptSettings(
                template,
                cfg.model.get('prompt', ''),
                cfg.model.get('system'),
                _stop_ids(template, folder, text_config),
            ),
            ImageSettings(
                model.backbone.img_size,
                mean,
                std,
                model.neck.num_tokens,
                names,
            ),
            {'max_new_tokens': 300, **cfg.model.get('generation', {})},
        )
        settings = format.config(model, exported_llm_config, image_token_id)
        llm_dtype = text_config.get('dtype') or text_config.get('torch_dtype')
        settings['torch_dtype'] = dtype or llm_dtype or 'float32'
        write_json(temporary / 'config.json', settings)
        _check_names(format.class_name, temporary, tensors)
        write_extras(
            temporary,
            folder,
            template,
            None if fingerprint is None else fingerprint.read(),
            _head_in_another_form(parts.head),
        )
        write_sharded(temporary, tensors, progress='writing')
    return report


def _choose_format(model: Mapping[str, Any]) -> FolderFormat:
    """Return the format for the parts of a model.

    Args:
        model: Its config.

    Raises:
        ValueError: There is none.
    """
    found = tuple(_class_name(model[part]) for part in ('backbone', 'neck'))
    expected = []
    for format in _FORMATS:
        names = tuple(kind.__name__ for kind in format.parts)
        if names == tuple(name.rpartition('.')[2] for name in found):
            return format
        expected.append(' with '.join(names))
    hint = ' (it has no Q-Former)' if 'PatchMerge' in found[1] else ''
    raise ValueError(
        f'the model has the backbone {found[0]} with the neck {found[1]}'
        f'{hint}, for which no class of transformers has a place; expected '
        f'{" or ".join(expected)}: serve this model with minigpt4 itself.'
    )


def _class_name(config: Mapping[str, Any]) -> str:
    """Return the class that a config names."""
    kind = config['type']
    return kind if isinstance(kind, str) else kind.__name__


def _head_in_another_form(head: Tensors) -> Tensors:
    """Return the tensors of a head, unless the class stores all as they are.

    It has no place for a prefix and position biases.
    """
    layers = all(name.startswith('head.layers.') for name in head)
    return {} if layers else head


def _stop_ids(
    template: Template, folder: Path, text_config: dict[str, Any]
) -> tuple[int, ...]:
    """Return the ids that end an answer, besides the tokenizer's end token.

    They are those of the model: a fixed template has none, that of a
    tokenizer its own and those of the LLM's folder.
    """
    if not template.stop_ids:
        return ()
    ids: list[Any] = [*template.stop_ids]
    file = folder / 'generation_config.json'
    for settings in (read_json(file) if file.is_file() else {}, text_config):
        found = settings.get('eos_token_id')
        ids += found if isinstance(found, list) else [found]
    return tuple(dict.fromkeys(i for i in ids if isinstance(i, int)))


def _normalization(cfg: Config, model: EmptyModel) -> tuple[Any, Any]:
    """Return mean and standard deviation of the RGB channels in 0..1.

    Raises:
        ValueError: The config does something else with images.
    """
    config = cfg.model.get('data_preprocessor')
    if config is None:
        return getattr(model.backbone, 'normalization', None) or (MEAN, STD)
    normalizer = MODELS.build({**config})
    if type(normalizer) is not ImageNormalizer:
        raise ValueError(
            f'the data_preprocessor is a {type(normalizer).__name__}, which '
            'an exported folder has no class for; expected ImageNormalizer.'
        )
    return tuple(normalizer.mean.flatten().tolist()), tuple(
        normalizer.std.flatten().tolist()
    )


def _check_names(class_name: str, folder: Path, tensors: Tensors) -> None:
    """Refuse tensors that the installed transformers would not load.

    Args:
        class_name: The class of the folder.
        folder: The folder, with its ``config.json``.
        tensors: Its tensors.

    Raises:
        ValueError: The class is missing, or a name or a shape differs.
    """
    import transformers

    if not hasattr(transformers, class_name):
        raise ValueError(
            f'{compat.transformers_name()} has no {class_name}, which this '
            'model needs; update transformers to 5.0 or later.'
        )
    with torch.device('meta'):
        model = getattr(transformers, class_name)(load_config(folder))
    report_names(model, tensors).check(
        'the export',
        class_name,
        'this LLM has other names there: serve it with minigpt4 itself.',
    )
