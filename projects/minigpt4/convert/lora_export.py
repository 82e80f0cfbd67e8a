# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Export a model with LoRA: merged into its LLM, or as an adapter of peft.

Both exports contain ``minigpt4.pth``, the projection with its fingerprint. It
belongs to the merged LLM, or to the LLM with the adapter.
"""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config

from ..llm.fingerprint import (
    FINGERPRINT,
    MERGED_LORA,
    compare_fingerprints,
    decode_fingerprint,
    encode_fingerprint,
    folder_fingerprint,
)
from ..llm.load import check_arch, load_config
from ..llm.locate import checked_llm_folder, locate_llm
from ..llm.lora import compare_lora, lora_config, lora_settings
from ..models import LLMDecoder
from ..utils.atomic import replacing
from ..weights.hf_folder_files import (
    copy_small_files,
    read_json,
    refuse_outside_links,
    write_json,
)
from ..weights.key_report import KeyReport
from ..weights.read import LazyTensor
from ..weights.state_dicts import match_names
from ..weights.write import write_pickle, write_safetensors, write_sharded
from .convert_files import FILES, real_output
from .export_sources import (
    Tensors,
    open_checkpoint,
    open_llm,
    refuse_decoder,
)
from .folder_extras import LLM_FOLDER
from .lora import LoraLayer, merged_tensors, open_lora, peft_tensors
from .model_shapes import explain_build_errors
from .model_shapes import load_config as load_model_config

ADAPTER_FOLDER = 'adapter'


class _Sources(NamedTuple):
    """What both exports read.

    Attributes:
        settings: ``decoder.lora`` of the config.
        folder: The LLM's folder.
        llm: Its tensors.
        layers: The LoRA weights by layer.
        digest: Digest of the LoRA weights and their settings.
        rest: All other tensors of the checkpoint, with this digest in their
            fingerprint.
        left_over: Tensors that are not used, and why.
    """

    settings: dict[str, Any]
    folder: Path
    llm: Tensors
    layers: dict[str, LoraLayer]
    digest: str
    rest: Tensors
    left_over: dict[str, str]


def export_merged(
    config: 'str | Path | Config',
    checkpoint: 'str | Path | None',
    out: 'str | Path',
    *,
    llm: 'str | Path | None' = None,
    dtype: str | None = None,
) -> KeyReport:
    """Write the LLM with LoRA merged into it, and the projection.

    Args:
        config: A config with ``decoder.lora``, or its file.
        checkpoint: The trained checkpoint.
        out: The folder to write: ``llm/``, a complete LLM for
            ``decoder.name_or_path`` without ``decoder.lora``, and
            ``minigpt4.pth``. It is written completely or not at all.
        llm: Folder of the LLM; by default the config's, or ``MINIGPT4_LLM``.
        dtype: Type of the weights of the LLM; by default that of its files,
            which rounds the merged ones.

    Returns:
        ``matched`` are the names of the merged weights.

    Raises:
        FileNotFoundError: A source is missing.
        ValueError: The sources do not fit, or the config has no LoRA.
    """
    sources = _open(config, checkpoint, llm)
    torch_type = None if dtype is None else getattr(torch, dtype)
    merged = merged_tensors(
        sources.llm, sources.layers, sources.settings, torch_type
    )
    tensors = {name: t.to(torch_type, name) for name, t in merged.items()}
    with replacing(real_output(out)) as temporary:
        temporary.mkdir()
        copy_small_files(sources.folder, temporary / LLM_FOLDER)
        settings = {MERGED_LORA: sources.digest}
        if dtype is not None:
            settings |= dict(dtype=dtype, torch_dtype=dtype)
        _change_config(temporary / LLM_FOLDER / 'config.json', settings)
        write_sharded(temporary / LLM_FOLDER, tensors, progress=LLM_FOLDER)
        write_pickle(temporary / FILES['head'], sources.rest, 'state_dict')
    return _report(sources)


def export_peft(
    config: 'str | Path | Config',
    checkpoint: 'str | Path | None',
    out: 'str | Path',
    *,
    llm: 'str | Path | None' = None,
    dtype: str | None = None,
) -> KeyReport:
    """Write LoRA as an adapter that peft alone loads, and the projection.

    Args:
        config: A config with ``decoder.lora``, or its file.
        checkpoint: The trained checkpoint.
        out: The folder to write: ``adapter/`` with ``adapter_config.json``
            and ``adapter_model.safetensors``, and ``minigpt4.pth``. It is
            written completely or not at all.
        llm: Folder of the LLM; by default the config's, or ``MINIGPT4_LLM``.
        dtype: Type of the adapter's weights; by default fp32.

    Returns:
        ``matched`` are the names of the layers.

    Raises:
        FileNotFoundError: A source is missing.
        ValueError: The sources do not fit, or the config has no LoRA.
    """
    sources = _open(config, checkpoint, llm)
    torch_type = None if dtype is None else getattr(torch, dtype)
    tensors = {
        name: tensor.to(torch_type, name)
        for name, tensor in peft_tensors(sources.layers).items()
    }
    settings = lora_config(sources.settings)
    settings.task_type = 'CAUSAL_LM'
    settings.base_model_name_or_path = str(sources.folder)
    settings.inference_mode = True
    with replacing(real_output(out)) as temporary:
        folder = temporary / ADAPTER_FOLDER
        folder.mkdir(parents=True)
        settings.save_pretrained(str(folder))
        # torch writes it in the format that peft expects
        write_safetensors(
            folder / 'adapter_model.safetensors', tensors, dict(format='pt')
        )
        write_pickle(temporary / FILES['head'], sources.rest, 'state_dict')
    return _report(sources)


def _open(
    config: 'str | Path | Config',
    checkpoint: 'str | Path | None',
    llm: 'str | Path | None',
) -> _Sources:
    """Open and check the sources of both exports."""
    cfg = load_model_config(
        str(config) if isinstance(config, Path) else config
    )
    with explain_build_errors(cfg):
        decoder = cfg.model.decoder
        lora = decoder.get('lora')
        if not lora:
            raise ValueError(
                f'the config {cfg.filename or "that was given"} has no '
                'decoder.lora, so nothing can be merged; expected one such '
                'as stage2_finetune_vicuna.py.'
            )
        folder = Path(locate_llm(str(llm or decoder.name_or_path)))
        refuse_decoder(decoder, folder)
        checked_llm_folder(str(folder))
        refuse_outside_links(folder)
        check_arch(str(folder), load_config(folder), decoder.get('arch') or {})
        with torch.device('meta'):
            empty = LLMDecoder(
                str(folder), arch=dict(read_json(folder / 'config.json'))
            )
    trained = open_checkpoint(config, checkpoint)
    source = checkpoint or config
    tensors, left_over = open_llm(folder, empty)
    settings = lora.to_dict() if hasattr(lora, 'to_dict') else {**lora}
    layers = open_lora(trained, settings, tensors, source)
    rest = {
        name: tensor
        for name, tensor in trained.items()
        if not name.startswith('decoder.llm.')
    }
    digest = _digest(layers, settings)
    _change_fingerprint(rest, settings, digest, folder, cfg.model, source)
    return _Sources(settings, folder, tensors, layers, digest, rest, left_over)


def _digest(layers: dict[str, LoraLayer], settings: dict[str, Any]) -> str:
    found = hashlib.sha256(repr(lora_settings(settings)).encode())
    for name, layer in layers.items():
        for tensor in layer:
            values = tensor.read().float().contiguous()
            found.update(name.encode() + values.numpy().tobytes())
    return found.hexdigest()[:16]


def _change_fingerprint(
    rest: Tensors,
    settings: dict[str, Any],
    digest: str,
    folder: Path,
    model: Any,
    source: object,
) -> None:
    """Compare the fingerprint; in place, LoRA in it becomes merged LoRA.

    Raises:
        ValueError: The checkpoint belongs to another LLM, or was trained
            with another rank or scale.
    """
    name = match_names(rest, {FINGERPRINT}, source).get(FINGERPRINT)
    if name is None:
        return
    known = decode_fingerprint(rest[name].read(), source)
    compare_lora(lora_settings(settings), known.pop('lora', None), source)
    if model.get('check_llm', True):
        compare_fingerprints(folder_fingerprint(folder), known, str(folder))
    known['merged_lora'] = digest
    rest[name] = LazyTensor.of(encode_fingerprint(known))


def _change_config(file: Path, settings: dict[str, Any]) -> None:
    """Change settings of a ``config.json``."""
    write_json(file, {**read_json(file), **settings})


def _report(sources: _Sources) -> KeyReport:
    report = KeyReport('peft')
    report.matched = [f'{layer}.weight' for layer in sources.layers]
    report.left_over |= sources.left_over
    return report
