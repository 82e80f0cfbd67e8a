# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Words are cut as SentencePiece cuts them."""

import json
import os
import random
import shutil
from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor
from transformers import AutoTokenizer

from minigpt4.models.llm import load_tokenizer
from minigpt4.models.tensor_files import SHIPPED

WORDS = (
    'foo bar the red . ### </Img> [INST] x y Describe 12 é 猫 a-b "q" it\'s'
).split() + ['\n', ' ', '  ', '\t']


def texts():
    draw = random.Random(0)
    for _ in range(500):
        yield ''.join(
            draw.choice(WORDS) + draw.choice(('', ' ', '  '))
            for _ in range(draw.randint(1, 12))
        )


@pytest.fixture(params=['nano', 'LLaMA'])
def model_file(request) -> Path:
    if request.param == 'nano':
        return SHIPPED / 'llm' / 'tokenizer.model'
    if not os.environ.get('MINIGPT4_LLAMA_TOKENIZER'):
        pytest.skip("MINIGPT4_LLAMA_TOKENIZER does not name LLaMA's file")
    return Path(os.environ['MINIGPT4_LLAMA_TOKENIZER'])


def folder_of(tmp_path, model_file, **settings) -> Path:
    shutil.copy(model_file, tmp_path / 'tokenizer.model')
    (tmp_path / 'config.json').write_text('{"model_type": "llama"}')
    (tmp_path / 'tokenizer_config.json').write_text(
        json.dumps(dict(tokenizer_class='LlamaTokenizer', **settings))
    )
    return tmp_path


@pytest.mark.parametrize('settings', [{}, dict(legacy=True)])
def test_same_tokens_as_sentencepiece(tmp_path, model_file, settings):
    tokenizer = load_tokenizer(
        str(folder_of(tmp_path, model_file, **settings))
    )
    pieces = SentencePieceProcessor(model_file=str(model_file))
    for text in texts():
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert ids == pieces.encode(text), text
        assert tokenizer.decode(ids) == pieces.decode(ids), text


def test_marks_are_still_marks(tmp_path, model_file):
    tokenizer = load_tokenizer(str(folder_of(tmp_path, model_file)))
    ids = tokenizer('<s> the</s>', add_special_tokens=False).input_ids
    assert (ids[0], ids[-1]) == (1, 2)


def test_what_the_authors_want_is_kept(tmp_path, model_file):
    folder = folder_of(tmp_path, model_file, legacy=False)
    plain = AutoTokenizer.from_pretrained(folder)
    tokenizer = load_tokenizer(str(folder))
    assert (
        tokenizer.backend_tokenizer.to_str()
        == plain.backend_tokenizer.to_str()
    )
