# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The fingerprint of an LLM from its folder, without loading the LLM."""

from pathlib import Path

import torch
from torch import nn

from ..models.decoder import LLMDecoder
from ..weights.folder_files import read_json
from ..weights.llm_folder import check_folder
from ..weights.read import open_tensors
from .load import load_config, load_tokenizer, locate_llm


def read_embeddings(decoder: LLMDecoder, folder: Path) -> None:
    """Give an empty LLM its word embeddings, mapped from their file.

    Raises:
        ValueError: The folder does not have them under their name.
    """
    table = decoder.llm.get_input_embeddings().weight
    (name, *_) = (
        n
        for n, tensor in decoder.llm.state_dict(keep_vars=True).items()
        if tensor is table
    )
    tensors = open_tensors(folder, checksums=False)
    if name not in tensors:
        raise ValueError(
            f'the weights in {folder} lack {name}, the word embeddings; give '
            'a complete LLM, whose tensors have the names that transformers '
            'gives them.'
        )
    decoder.llm.set_input_embeddings(
        nn.Embedding.from_pretrained(tensors[name].read())
    )


def fingerprint_of(llm: 'str | Path') -> dict:
    """:meth:`LLMDecoder.fingerprint` of the LLM in a folder.

    Args:
        llm: The folder, or ``'nano/llm'``.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It has no word embeddings, or is refused by
            :func:`~minigpt4.weights.llm_folder.check_folder`.
    """
    folder = Path(locate_llm(str(llm)))
    if not (folder / 'config.json').is_file():
        raise FileNotFoundError(
            f'{llm} is no local folder with a config.json; give the folder of '
            'the LLM.'
        )
    check_folder(folder)
    load_config(folder)  # refuses in a sentence what the next step would not
    with torch.device('meta'):
        decoder = LLMDecoder(
            str(folder),
            arch=read_json(folder / 'config.json'),
        )
    decoder.tokenizer = load_tokenizer(str(folder))
    read_embeddings(decoder, folder)
    return decoder.fingerprint()
