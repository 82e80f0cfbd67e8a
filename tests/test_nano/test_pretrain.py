# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Short pretrainings of the frozen parts of the nano model."""

import pytest
import sentencepiece
import torch

from minigpt4.nano import pretrain


@pytest.fixture(scope='module')
def tokenizer_model(tmp_path_factory):
    path = tmp_path_factory.mktemp('tokenizer') / 'tokenizer.model'
    pretrain.train_tokenizer(path, scenes=3000)
    return path


def test_the_tokenizer_has_the_words_of_scenes(tokenizer_model):
    tokenizer = sentencepiece.SentencePieceProcessor(
        model_file=str(tokenizer_model)
    )
    assert tokenizer.get_piece_size() == 768
    assert len(tokenizer.encode('small red circle top left')) == 5
    assert tokenizer.decode(tokenizer.encode('É?')) == 'É?'


def test_a_pretraining_of_the_llm_repeats_to_the_bit(tokenizer_model):
    def train():
        model = pretrain.pretrain_llm(
            tokenizer_model, 4, tokens=256, log=lambda line: None
        )
        return model.lm_head.weight

    first = train()
    assert torch.equal(first, train())
    assert torch.isfinite(first).all()


def test_vision_is_pretrained():
    backbone, neck = pretrain.pretrain_vision(2, batch_size=4)
    images = torch.zeros(1, 3, 64, 64)
    assert neck(backbone(images)).shape == (1, 22, 128)
