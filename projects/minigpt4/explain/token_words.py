# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The words of the LLM's vocabulary that are nearest to image tokens."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..models import MiniGPT4

_CHUNK = 4096  # rows of the embedding table that are compared at a time
_ROWS = 64  # image tokens that are compared at a time
_SPELLINGS = 8  # candidates for each word, which may have several spellings


class NearWord(NamedTuple):
    """A word of the vocabulary.

    Attributes:
        text: The word, without the blank before it.
        similarity: Cosine of its embedding and the image token, -1 to 1.
    """

    text: str
    similarity: float


@torch.no_grad()
def nearest_words(
    model: MiniGPT4, image_tokens: Tensor, number: int = 5
) -> list[list[NearWord]]:
    """Find the words whose input embeddings are nearest to image tokens.

    Not compared are the tokens that :func:`vocabulary_texts` omits. Tokens
    with the same text, such as with and without a blank before it, count as
    one word, with the larger similarity.

    Args:
        model: The model.
        image_tokens: ``(Q, hidden_size)``.
        number: Words for each image token.

    Returns:
        For each image token its words, the nearest first.
    """
    texts = vocabulary_texts(model.decoder.tokenizer, model.decoder.vocab_size)
    ids = torch.tensor(list(texts), dtype=torch.long)
    names = list(texts.values())
    found: list[list[NearWord]] = []
    for rows in F.normalize(image_tokens.float(), dim=-1).split(_ROWS):
        similarities = torch.cat(
            [
                rows @ F.normalize(table.to(rows), dim=-1).T
                for table in _tables(model, ids)
            ],
            dim=1,
        )
        most = min(number * _SPELLINGS, len(names))
        top = similarities.topk(most, dim=1)
        for values, indices in zip(
            top.values.tolist(), top.indices.tolist(), strict=True
        ):
            words: dict[str, float] = {}
            for value, index in zip(values, indices, strict=True):
                words.setdefault(names[index], value)
            found.append([NearWord(*w) for w in words.items()][:number])
    return found


def vocabulary_texts(tokenizer: Any, rows: int) -> dict[int, str]:
    """The texts of the tokens that are words or parts of words.

    Omitted are special and control tokens, tokens of single bytes (``<0x0A>``)
    and of a part of a character, blanks, texts with characters that cannot
    be printed, and rows of the table that no token has.

    Args:
        tokenizer: The LLM's tokenizer.
        rows: Rows of its embedding table.

    Returns:
        The text of each token by its id, stripped.
    """
    special = {*tokenizer.all_special_ids, *_added_ids(tokenizer)}
    count = min(rows, len(tokenizer))
    ids = [i for i in range(count) if i not in special]
    raw = tokenizer.convert_ids_to_tokens(ids)
    texts = tokenizer.batch_decode(
        [[i] for i in ids], clean_up_tokenization_spaces=False
    )
    return {
        i: text
        for i, token, text in zip(ids, raw, map(str.strip, texts))
        if text
        and text.isprintable()
        and '\ufffd' not in text
        and not _is_byte(str(token))
    }


def _added_ids(tokenizer: Any) -> list[int]:
    """Ids of the tokens that were added to the vocabulary, as control."""
    added = getattr(tokenizer, 'added_tokens_decoder', {})
    return [i for i, token in added.items() if token.special]


def _is_byte(token: str) -> bool:
    """Whether a token is SentencePiece's of one byte, such as ``<0x0A>``."""
    return len(token) == 6 and token.startswith('<0x') and token[-1] == '>'


def _tables(model: MiniGPT4, ids: Tensor) -> Iterator[Tensor]:
    """Yield the input embeddings of tokens in chunks."""
    for chunk in ids.split(_CHUNK):
        yield model.decoder.embed_tokens(chunk)
