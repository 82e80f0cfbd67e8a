# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Nearest words of image tokens."""

from types import SimpleNamespace

import torch

from minigpt4.explain import token_words
from minigpt4.explain.token_words import nearest_words, vocabulary_texts


def test_an_embedding_is_nearest_to_its_own_word(tiny_model, monkeypatch):
    monkeypatch.setattr(token_words, '_CHUNK', 7)
    texts = vocabulary_texts(tiny_model.decoder.tokenizer, 400)
    ids = torch.tensor([i for i, t in texts.items() if len(t) > 3][:6])
    rows = tiny_model.decoder.embed_tokens(ids)
    found = nearest_words(tiny_model, 2 * rows, number=3)
    for token_id, words in zip(ids.tolist(), found, strict=True):
        assert len(words) == 3
        assert words[0].text == texts[token_id]
        assert abs(words[0].similarity - 1) < 1e-5
        similarities = [word.similarity for word in words]
        assert similarities == sorted(similarities, reverse=True)
        assert len({word.text for word in words}) == 3


def test_similarities_are_cosines(tiny_model):
    token = torch.randn(1, 32, generator=torch.Generator().manual_seed(0))
    ((word,),) = nearest_words(tiny_model, token, number=1)
    texts = vocabulary_texts(tiny_model.decoder.tokenizer, 400)
    table = tiny_model.decoder.llm.get_input_embeddings().weight
    cosines = torch.cosine_similarity(token, table)
    best = max(texts, key=lambda i: float(cosines[i]))
    assert word.text == texts[best]
    assert abs(word.similarity - float(cosines[best])) < 1e-5


def test_spellings_count_as_one_word_with_the_largest_cosine(monkeypatch):
    words = {0: 'sun', 1: 'dog', 3: 'dog', 4: 'dog', 6: 'cat'}
    monkeypatch.setattr(token_words, 'vocabulary_texts', lambda *_: words)
    table = torch.zeros(7, 2)
    table[0] = torch.tensor([0.0, 1.0])
    table[1] = torch.tensor([1.6, 1.2])  # cosine 0.8
    table[3] = torch.tensor([0.5, 0.0])  # 1
    table[4] = torch.tensor([24.0, 7.0])  # 0.96
    table[6] = torch.tensor([3.0, -4.0])  # 0.6
    decoder = SimpleNamespace(
        tokenizer=None, vocab_size=7, embed_tokens=lambda ids: table[ids]
    )
    model = SimpleNamespace(decoder=decoder)
    (found,) = nearest_words(model, torch.tensor([[5.0, 0.0]]), number=2)
    assert [word.text for word in found] == ['dog', 'cat']
    similarities = torch.tensor([word.similarity for word in found])
    assert torch.allclose(similarities, torch.tensor([1.0, 0.6]))


def test_control_and_byte_tokens_are_omitted(tiny_tokenizer):
    texts = vocabulary_texts(tiny_tokenizer, 10_000)
    tokens = tiny_tokenizer.convert_ids_to_tokens(list(texts))
    assert not {'<s>', '</s>', '<unk>', '<0x0A>', '<0x41>'} & {*tokens}
    assert {'red', 'circle'} <= {*texts.values()}
    assert all(text.strip() == text != '' for text in texts.values())
    assert max(vocabulary_texts(tiny_tokenizer, 300)) < 300


def test_an_embedding_table_may_have_more_rows(tiny_tokenizer):
    """Such as one that is padded to a multiple of 64."""
    rows = len(tiny_tokenizer) + 64
    assert max(vocabulary_texts(tiny_tokenizer, rows)) < len(tiny_tokenizer)


def test_words_of_a_byte_level_tokenizer(build_chat):
    model = build_chat('llama_3')
    texts = vocabulary_texts(model.decoder.tokenizer, model.decoder.vocab_size)
    assert texts and not any('\ufffd' in text for text in texts.values())
    assert not any('_of_text' in text for text in texts.values())
