# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The bytes of tokens, joined, are the text that was tokenized."""

import pytest
from tests.chat_families import new_tokenizer
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from minigpt4.llm.token_bytes import TokenBytes

TEXT = 'a née circle, 日本 😀\nof\ttwo  spaces<0x41>'


def ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False).input_ids


@pytest.mark.parametrize(
    'tokenizer',
    ['tiny_tokenizer', 'llama_tokenizer', 'llama_3', 'qwen3', 'gemma'],
)
def test_joined_bytes_are_the_text(tokenizer, request):
    """Of SentencePiece with byte tokens, and of byte-level BPE."""
    if tokenizer.endswith('_tokenizer'):
        tokenizer = request.getfixturevalue(tokenizer)
    else:
        tokenizer = new_tokenizer(tokenizer)
    token_bytes = TokenBytes(tokenizer)
    token_ids = ids(tokenizer, TEXT)
    found = [token_bytes(token_id) for token_id in token_ids]
    assert b''.join(found).strip() == TEXT.encode()
    assert b'\xf0' in found or any(
        len(one) < 4 and one[:1] == b'\xf0' for one in found
    ), 'a part of a character'
    texts = [token_bytes.text(token_id) for token_id in token_ids]
    assert '\ufffd' in texts


def test_special_tokens_have_a_name_and_no_bytes(tiny_tokenizer):
    token_bytes = TokenBytes(tiny_tokenizer)
    assert token_bytes(2) is None and token_bytes.text(2) == '</s>'
    assert token_bytes(len(tiny_tokenizer)) == b''  # a row without a token
    assert token_bytes.text(len(tiny_tokenizer)) == ''


def test_added_tokens_and_other_tokenizers():
    words = {'red': 0, '##dish': 1, '[UNK]': 2}
    backend = Tokenizer(models.WordPiece(words, unk_token='[UNK]'))
    backend.decoder = decoders.WordPiece()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token='[UNK]'
    )
    tokenizer.add_tokens(['▁new'])
    token_bytes = TokenBytes(tokenizer)
    assert [token_bytes(i) for i in range(2)] == [b'red', b'##dish']
    assert token_bytes(2) is None
    assert token_bytes(3) == '▁new'.encode()
