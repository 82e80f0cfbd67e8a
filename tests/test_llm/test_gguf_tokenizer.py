# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The tokenizers of GGUF files give the token ids of their LLMs."""

import numpy as np
import pytest
from sentencepiece import SentencePieceProcessor
from tests.gguf_files import random_llm, vocabulary, write_gguf

from minigpt4.llm.gguf import gguf_folder
from minigpt4.llm.load import load_tokenizer
from minigpt4.weights.shipped import NANO_FOLDER


def tokenizer_of(path):
    return load_tokenizer(str(gguf_folder(path)))


@pytest.mark.parametrize(
    ('pre', 'tokens'),
    [
        ('smollm', [*('Ġcat', 'Ġ', '2', '0', '2', '4')]),
        ('gpt-2', [*('Ġcat', 'Ġ', '2024')]),
        ('llama-bpe', [*('Ġcat', 'Ġ', '202', '4')]),
        ('qwen2', [*('Ġcat', 'Ġ', '2', '0', '2', '4')]),
    ],
)
def test_rule_to_split_texts(tmp_path, cache, pre, tokens):
    tokenizer = tokenizer_of(write_gguf(tmp_path / 'a.gguf', pre=pre))
    # no merge of 'Ġ' and '2', so the space is a token of its own
    ids = tokenizer.encode(' cat 2024', add_special_tokens=False)
    assert tokenizer.convert_ids_to_tokens(ids) == tokens
    assert ids == [vocabulary().index(token) for token in tokens]
    text = 'Ünïcode ☃\n\n  3,5 <tag>'
    encoded = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(encoded) == text
    begin = [1] if pre == 'llama-bpe' else []
    assert tokenizer.encode('a') == [*begin, vocabulary().index('a')]


def test_special_tokens_and_chat_template(tmp_path, cache):
    tokenizer = tokenizer_of(write_gguf(tmp_path / 'a.gguf'))
    roles = ('bos_token', 'eos_token', 'unk_token', 'pad_token')
    assert [getattr(tokenizer, role) for role in roles] == [
        *('<|im_start|>', '<|im_end|>', '<|endoftext|>', '<|im_end|>')
    ]
    assert len(tokenizer) == len(vocabulary())
    text = tokenizer.apply_chat_template(
        [dict(role='user', content='a')],
        add_generation_prompt=True,
        tokenize=False,
    )
    assert text == '<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n'
    # a special token in a text of the user is plain text
    assert 1 not in tokenizer.encode(text)
    tokenizer.split_special_tokens = False
    ids = tokenizer.encode(text)
    assert (ids.count(1), ids.count(2)) == (2, 1)
    assert tokenizer.decode(ids) == text


def sentencepiece_entries(writer):
    """The tokenizer of the nano LLM."""
    pieces = SentencePieceProcessor(
        model_file=str(NANO_FOLDER / 'llm' / 'tokenizer.model')
    )
    ids = range(len(pieces))
    kinds = [
        2
        if pieces.is_unknown(i)
        else 3
        if pieces.is_control(i)
        else 6
        if pieces.is_byte(i)
        else 1
        for i in ids
    ]
    writer.add_tokenizer_model('llama')
    writer.add_token_list([pieces.id_to_piece(i) for i in ids])
    writer.add_token_scores([pieces.get_score(i) for i in ids])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(pieces.bos_id())
    writer.add_eos_token_id(pieces.eos_id())
    writer.add_unk_token_id(pieces.unk_id())


def test_sentencepiece_model(tmp_path, cache):
    path = write_gguf(
        tmp_path / 'a.gguf',
        random_llm(),
        tokenizer=False,
        change=sentencepiece_entries,
    )
    ours, original = tokenizer_of(path), load_tokenizer('nano/llm')
    rng = np.random.default_rng(0)
    letters = list('abcdefgh  ?.<>/é\n01')
    for _ in range(100):
        text = ''.join(rng.choice(letters, 20))
        assert ours.encode(text) == original.encode(text)
    assert ours.encode('a')[0] == ours.bos_token_id == original.bos_token_id
    assert ours.eos_token == original.eos_token


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda w: w.add_eos_token_id(10**6), 'eos token 1000000'),
        (lambda w: w.add_token_types([1]), 'not as many token types'),
        (lambda w: w.add_token_merges(['q zz']), 'damaged tokenizer'),
        (lambda w: w.add_tokenizer_model('bert'), "kind 'bert'"),
        (lambda w: w.add_tokenizer_model('llama'), 'not as many scores'),
    ],
)
def test_damaged_tokenizer_is_refused(tmp_path, cache, change, message):
    def replace(writer):
        writer.kv_data[0] = Replaceable(writer.kv_data[0])
        change(writer)

    path = write_gguf(tmp_path / 'a.gguf', change=replace)
    with pytest.raises(ValueError, match=message) as error:
        gguf_folder(path)
    assert '\n' not in str(error.value)
    assert list((cache / 'gguf').glob('a-*')) == []


class Replaceable(dict):
    """Entries of a writer, which refuses to add one twice."""

    def __contains__(self, key):
        return False
