# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The fingerprint of an LLM: compute, encode, decode and compare it.

A projection maps into the embedding space of one LLM; with another Vicuna of
the same size the model would answer fluent nonsense without any error. So a
checkpoint stores the fingerprint of its LLM: sizes, and a few embeddings.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..prompts.tokenization import encode
from ..weights.check_llm_folder import check_folder
from ..weights.hf_folder_files import read_json
from ..weights.read import open_tensors
from ..weights.state_dicts import as_tensor
from .load import EXTRA_VOCAB_ROWS, build_empty, load_config, load_tokenizer
from .locate import locate_llm

FINGERPRINT = 'llm_fingerprint'  # its name in a state dict
# of the digest of LoRA merged into an LLM, in its config.json
MERGED_LORA = 'minigpt4_merged_lora'
# the tokens, and the columns of their embeddings, in a fingerprint
_TEXT = '###Human: Describe this image in detail. ###Assistant: '
_WIDTH = 16
_BF16_STEP = 2.0**-7
_KEYS = {'hidden_size', 'vocab_size', 'tokens', 'embeddings'}


@torch.no_grad()
def compute_fingerprint(
    tokenizer: Any, embed: Callable[[Tensor], Tensor], config: Any
) -> dict[str, Any]:
    """Compute the fingerprint of an LLM.

    Args:
        tokenizer: Its tokenizer.
        embed: Maps ``(T,)`` int64 token ids to ``(T, hidden_size)``
            embeddings.
        config: Its config.

    Returns:
        ``hidden_size``, ``vocab_size``, the token ids ``tokens`` of a fixed
        text, and the first columns of their ``embeddings``; ``merged_lora``,
        a digest, if LoRA was merged into it, which changes no embedding.
    """
    token_ids = encode(tokenizer, _TEXT)
    embeddings = embed(torch.tensor(token_ids))
    lora = getattr(config, MERGED_LORA, None)
    return dict(
        {} if lora is None else dict(merged_lora=lora),
        hidden_size=embeddings.shape[1],
        vocab_size=config.vocab_size,
        tokens=token_ids,
        embeddings=[
            [round(value, 8) for value in row]
            for row in embeddings[:, :_WIDTH].float().tolist()
        ],
    )


def folder_fingerprint(llm: 'str | Path') -> dict[str, Any]:
    """Compute the fingerprint of the LLM in a folder without loading the LLM.

    Args:
        llm: The folder, or ``'nano/llm'``.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: It has no token embeddings, or is refused by
            :func:`~minigpt4.weights.check_llm_folder.check_folder`.
    """
    folder = Path(locate_llm(str(llm)))
    if not (folder / 'config.json').is_file():
        raise FileNotFoundError(
            f'{llm} is no local folder with a config.json; give the folder of '
            'the LLM.'
        )
    check_folder(folder)
    load_config(folder)  # its error is clearer than that of build_empty
    with torch.device('meta'):
        model = build_empty(read_json(folder / 'config.json'), 'auto')
    table = _read_embedding_table(model, folder)
    return compute_fingerprint(
        load_tokenizer(str(folder)),
        lambda token_ids: table[token_ids],
        model.config,
    )


def _read_embedding_table(model: Any, folder: Path) -> Tensor:
    """Read the token embeddings of an empty LLM, mapped from their file.

    Args:
        model: The LLM on the meta device.
        folder: Its folder.

    Returns:
        ``(vocab_size, hidden_size)``.

    Raises:
        ValueError: The folder does not have them under their name.
    """
    table = model.get_input_embeddings().weight
    name = next(
        name
        for name, tensor in model.state_dict(keep_vars=True).items()
        if tensor is table
    )
    tensors = open_tensors(folder, checksums=False)
    if name not in tensors:
        raise ValueError(
            f'the weights in {folder} lack {name}, the word embeddings; give '
            'a complete LLM, whose tensors have the names that transformers '
            'gives them.'
        )
    return tensors[name].read()


def encode_fingerprint(fingerprint: dict[str, Any]) -> Tensor:
    """Encode a fingerprint as JSON in a uint8 tensor, for a state dict."""
    return torch.tensor(
        list(json.dumps(fingerprint).encode()), dtype=torch.uint8
    )


def decode_fingerprint(
    tensor: Tensor, source: object = 'the checkpoint'
) -> dict[str, Any]:
    """Decode the result of :func:`encode_fingerprint`.

    Args:
        tensor: ``(N,)`` uint8.
        source: The file, for the error.

    Returns:
        The fingerprint; in a checkpoint also ``template``, the name of the
        prompt template, and ``vision``, see
        :mod:`minigpt4.models.vision_fingerprint`.

    Raises:
        ValueError: It is no fingerprint.
    """
    try:
        values = as_tensor(FINGERPRINT, tensor, source).tolist()
        fingerprint = json.loads(bytes(values))
        if not _KEYS <= {*fingerprint}:
            raise ValueError('a value is missing')
        if not isinstance(fingerprint.get('vision', {}), dict):
            raise ValueError('vision is no object')
    except (ValueError, TypeError) as error:
        raise ValueError(
            f'the fingerprint of the LLM in {source} is damaged ({error}); '
            f'give another copy, or remove {FINGERPRINT} from its state_dict.'
        ) from error
    return fingerprint


def compare_fingerprints(
    fingerprint: dict[str, Any], expected: dict[str, Any], llm: str
) -> None:
    """Refuse a projection that was trained with another LLM.

    A vocabulary of up to ``EXTRA_VOCAB_ROWS`` more or fewer rows is accepted:
    Vicuna v0 has 32,000 rows, or 32,001 with a row for ``[PAD]``.

    Args:
        fingerprint: That of the LLM in use.
        expected: That in the checkpoint.
        llm: Name or folder of the LLM in use, for the error.

    Raises:
        ValueError: Sizes, tokens or merged LoRA differ, or embeddings by
            more than the rounding of bf16.
    """
    if fingerprint['hidden_size'] != expected['hidden_size']:
        raise ValueError(
            'the checkpoint was trained against an LLM of hidden_size '
            f'{expected["hidden_size"]}, but {llm} has '
            f'{fingerprint["hidden_size"]}, so the projection cannot be used '
            'with it; give the LLM it was trained with.'
        )
    override = (
        'give the LLM it was trained with, or set model.check_llm=False '
        'to use it anyway.'
    )
    extra_rows = abs(fingerprint['vocab_size'] - expected['vocab_size'])
    if extra_rows > EXTRA_VOCAB_ROWS:
        raise ValueError(
            'the checkpoint was trained against an LLM of vocab_size '
            f'{expected["vocab_size"]}, but {llm} has '
            f'{fingerprint["vocab_size"]}; {override}'
        )
    if fingerprint['tokens'] != expected['tokens']:
        raise ValueError(
            'the checkpoint was trained against an LLM whose tokenizer '
            f'encodes {_TEXT!r} as {expected["tokens"]}, but '
            f'that of {llm} as {fingerprint["tokens"]}; {override}'
        )
    if fingerprint.get('merged_lora') != expected.get('merged_lora'):
        raise ValueError(
            'the checkpoint belongs to an LLM with LoRA (minigpt4 convert '
            f'--to merged), which {llm} is not; {override}'
            if 'merged_lora' in expected
            else f'LoRA was merged into {llm}, but the checkpoint was trained '
            f'without it; {override}'
        )
    values = torch.tensor(fingerprint['embeddings'])
    expected_values = torch.tensor(expected['embeddings'])
    tolerance = _BF16_STEP * expected_values.abs() + 1e-6
    differing = (values - expected_values).abs() > tolerance
    if differing.any():
        raise ValueError(
            'the checkpoint was trained against another LLM, of the same '
            f'size as {llm} but of another version '
            f'({int(differing.sum())} of {differing.numel()} compared '
            f'embedding values differ); {override}'
        )
