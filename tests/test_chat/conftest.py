# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""A tiny model whose answers are words."""

import pytest
import torch


@pytest.fixture
def tiny_model(tiny_model):
    """A tiny model that generates no byte tokens and no ``#``."""
    decoder = tiny_model.decoder
    excluded = [
        i
        for i in range(decoder.vocab_size)
        if i < 259 or '#' in decoder.tokenizer.decode(i)
    ]
    with torch.no_grad():
        decoder.llm.get_output_embeddings().weight[excluded] = 0
    return tiny_model
