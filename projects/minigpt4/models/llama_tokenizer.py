# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""LLaMA's tokenizer as SentencePiece itself cuts words.

transformers 5 makes a fast tokenizer of a ``tokenizer.model`` whose merges
are in another order and which drops a leading space: ``' foo'``, two spaces
in a row, or a line that begins with a space get other tokens than the LLM was
trained with (of 3,000 random strings with many spaces 2,120 differed, with
5.17; none with 4.49). MiniGPT-4 was trained through SentencePiece.
"""

import json
from pathlib import Path

from sentencepiece import SentencePieceProcessor
from tokenizers import models, normalizers

_PROBES = ('foo', ' foo', 'a  b', '\n c', '###Human: ', ' ###', 'x.###', '0 é')


def follow_sentencepiece(tokenizer, folder: Path) -> None:
    """Let a LLaMA tokenizer give SentencePiece's tokens; no other is touched.

    Args:
        tokenizer: What ``AutoTokenizer`` made of the folder; changed in
            place where it differs.
        folder: The folder. Where its config says ``legacy: false``, its
            authors want something else, which is kept.

    Raises:
        ValueError: The tokens differ all the same.
    """
    path = folder / 'tokenizer.model'
    named = type(tokenizer).__name__.startswith('LlamaTokenizer')
    if not (named and path.is_file() and tokenizer.is_fast):
        return
    settings = folder / 'tokenizer_config.json'
    if settings.is_file():
        if json.loads(settings.read_text('utf-8')).get('legacy') is False:
            return
    pieces = SentencePieceProcessor(model_file=str(path))
    if _agrees(tokenizer, pieces):
        return
    backend = tokenizer.backend_tokenizer
    vocabulary = {pieces.id_to_piece(i): i for i in range(len(pieces))}
    backend.model = models.BPE(
        vocabulary,
        _merges(pieces, vocabulary),
        unk_token=pieces.id_to_piece(pieces.unk_id()),
        fuse_unk=True,
        byte_fallback=True,
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend('▁'), normalizers.Replace(' ', '▁')]
    )
    backend.pre_tokenizer = None
    if not _agrees(tokenizer, pieces):
        raise ValueError(
            f'the tokenizer of {folder} does not give the tokens of its '
            'tokenizer.model; set "legacy": false in tokenizer_config.json '
            'if that is meant.'
        )


def _agrees(tokenizer, pieces: SentencePieceProcessor) -> bool:
    return all(
        tokenizer(text, add_special_tokens=False).input_ids
        == pieces.encode(text)
        for text in _PROBES
    )


def _merges(
    pieces: SentencePieceProcessor, vocabulary: dict[str, int]
) -> list[tuple[str, str]]:
    """All pairs that make a piece, the likeliest piece first."""
    normal = [
        i
        for i in range(len(pieces))
        if not (
            pieces.is_control(i) or pieces.is_byte(i) or pieces.is_unknown(i)
        )
    ]
    merges = []
    for i in sorted(normal, key=pieces.get_score, reverse=True):
        piece = pieces.id_to_piece(i)
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in vocabulary and right in vocabulary:
                merges.append((left, right))
    return merges
