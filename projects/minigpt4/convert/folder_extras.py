# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""What an exported folder holds next to the files of its class.

The class cannot store the fingerprint, the name of the template and the small
files of the LLM, from which the import restores our files.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..llm.fingerprint import (
    FINGERPRINT,
    encode_fingerprint,
    folder_fingerprint,
)
from ..prompts import Template
from ..weights.hf_folder_files import (
    copy_file,
    copy_small_files,
    read_json,
    write_json,
)
from ..weights.key_report import KeyReport
from ..weights.write import write_safetensors, write_sharded
from .convert_files import FILES
from .export_sources import Tensors

LLM_FOLDER = 'llm'  # in both folders: the LLM's small files
EXTRA_FILE = 'minigpt4.json'
HEAD_FILE = 'minigpt4_head.safetensors'


def write_extras(
    target: Path,
    llm: Path,
    template: Template,
    fingerprint: Tensor | None,
    head: Tensors,
) -> None:
    """Write them in an exported folder.

    The stop strings are for a server that finds them in the text, as vLLM
    does; ``GenerationConfig`` has a field for them, but transformers then
    needs a tokenizer to generate.

    Args:
        target: The exported folder.
        llm: The LLM's folder.
        template: The prompt template.
        fingerprint: The encoded fingerprint of the checkpoint, if it has one.
        head: The tensors of a head that the class stores in another form.
    """
    if head:
        write_safetensors(target / HEAD_FILE, head)
    copy_small_files(llm, target / LLM_FOLDER)
    text = fingerprint if fingerprint is None else _decode(fingerprint)
    write_json(
        target / EXTRA_FILE,
        {
            'prompt_template': template.name,
            'stop': [*template.stop],
            FINGERPRINT: text,
        },
    )


def _decode(fingerprint: Tensor) -> str:
    return bytes(fingerprint.tolist()).decode()


def write_head_and_llm(
    source: Path,
    target: Path,
    text_config: dict[str, Any],
    head: Tensors,
    llm: Tensors,
    report: KeyReport,
) -> None:
    """Write the checkpoint and the LLM's folder of an import.

    Args:
        source: The Hugging Face folder.
        target: The folder to write to.
        text_config: Config of the LLM, for a folder without its small files.
        head: The tensors of the head by our names.
        llm: Those of the LLM by its own names.
        report: A fingerprint that cannot be computed is added to it.
    """
    _write_llm(source, target / LLM_FOLDER, text_config, llm)
    state = {name: lazy.read() for name, lazy in head.items()}
    fingerprint = _fingerprint(source, target / LLM_FOLDER)
    if fingerprint is None:
        report.left_over[FINGERPRINT] = (
            'there is no tokenizer to compute it with'
        )
    else:
        state[FINGERPRINT] = fingerprint
    torch.save(dict(state_dict=state, meta={}), target / FILES['head'])


def _write_llm(
    source: Path,
    target: Path,
    text_config: dict[str, Any],
    weights: Tensors,
) -> None:
    """Write the LLM's folder.

    Its small files are copied from ``source/llm`` if that exists; otherwise
    the tokenizer is copied from ``source`` and the config is ``text_config``.
    """
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
    """Return the stored fingerprint, else that of the LLM's folder.

    Args:
        folder: The Hugging Face folder.
        llm: The LLM's folder that was written from it.

    Returns:
        The encoded fingerprint; None without a tokenizer.
    """
    if (folder / EXTRA_FILE).is_file():
        text = read_json(folder / EXTRA_FILE).get(FINGERPRINT)
        if text is not None:
            return torch.tensor(list(text.encode()), dtype=torch.uint8)
    if not any(llm.glob('tokenizer*')):
        return None
    return encode_fingerprint(folder_fingerprint(llm))
