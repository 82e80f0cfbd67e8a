# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The bytes of single tokens, which need not be complete characters.

Own code, because a tokenizer decodes ids to text only: a token that is a part
of a character becomes U+FFFD there.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

_BYTE_TOKEN = re.compile('<0x([0-9A-F]{2})>')  # of SentencePiece
_SPACE = '\u2581'  # what SentencePiece writes for a space
_LATIN = (*range(33, 127), *range(161, 173), *range(174, 256))


class TokenBytes:
    """The bytes of the tokens of one tokenizer.

    The bytes of an answer's tokens, joined, are the UTF-8 text of the answer
    before white space at its ends is removed.

    Args:
        tokenizer: A tokenizer of transformers: byte-level BPE, SentencePiece
            with or without byte tokens, or another one.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._added = {
            token_id: token.content
            for token_id, token in tokenizer.added_tokens_decoder.items()
        }
        self._special = {
            *tokenizer.all_special_ids,
            *(
                token_id
                for token_id, token in tokenizer.added_tokens_decoder.items()
                if token.special
            ),
        }
        backend = getattr(tokenizer, 'backend_tokenizer', None)
        self._decoders = (
            {'Metaspace', 'ByteFallback'}  # a SentencePiece model
            if backend is None
            else set(_decoder_names(backend.decoder))
        )
        self._known: dict[int, bytes | None] = {}

    def __call__(self, token_id: int) -> bytes | None:
        """Return the bytes of a token.

        None for a special token, such as end of text: it has no text. An id
        above the vocabulary, which some LLMs have scores for, has no bytes.
        """
        if token_id not in self._known:
            self._known[token_id] = self._find(token_id)
        return self._known[token_id]

    def text(self, token_id: int) -> str:
        """Return a token as text, with U+FFFD for parts of characters.

        For a special token, its name.
        """
        found = self(token_id)
        if found is None:
            return str(self._tokenizer.convert_ids_to_tokens(token_id))
        return found.decode(errors='replace')

    def _find(self, token_id: int) -> bytes | None:
        if token_id in self._special:
            return None
        if token_id in self._added:
            return self._added[token_id].encode()
        if token_id >= len(self._tokenizer):
            return b''
        piece = self._tokenizer.convert_ids_to_tokens(token_id)
        if 'ByteLevel' in self._decoders:
            return b''.join(
                _BYTES.get(character, character.encode())
                for character in piece
            )
        if 'ByteFallback' in self._decoders:
            byte = _BYTE_TOKEN.fullmatch(piece)
            if byte:
                return bytes([int(byte[1], 16)])
        if self._decoders & {'ByteFallback', 'Metaspace', 'Replace'}:
            return piece.replace(_SPACE, ' ').encode()
        return self._tokenizer.decode([token_id]).encode()


def _decoder_names(decoder: Any) -> Iterator[str]:
    """Names of the steps of a decoder of the tokenizers library."""
    if decoder is None:
        return
    pending = [json.loads(decoder.__getstate__())]
    while pending:
        step = pending.pop()
        yield step['type']
        pending += step.get('decoders', [])


def _byte_characters() -> dict[str, bytes]:
    """The characters that byte-level BPE writes for bytes.

    Printable characters of Latin-1 represent themselves, the other bytes, in
    order, the characters from U+0100.

    Source: the vocabulary of GPT-2.
    """
    table = {chr(byte): bytes([byte]) for byte in _LATIN}
    others = (byte for byte in range(256) if byte not in _LATIN)
    for number, byte in enumerate(others):
        table[chr(256 + number)] = bytes([byte])
    return table


_BYTES = _byte_characters()
