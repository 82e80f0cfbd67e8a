# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Models to export."""

import copy
import shutil
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from tests.chat_families import family_tokenizer
from tests.conftest import save_llm

from minigpt4.convert.model_shapes import load_config
from minigpt4.models import EfficientNetLite

NANO = 'minigpt-4_nano_caption'


@pytest.fixture
def nano_cfg() -> Config:
    """A config of the nano model that a test may change."""
    return copy.deepcopy(load_config(NANO))


# an LLM of each family, with the tokenizer of tests/chat_families.py
CHAT_LLMS = {
    'smollm2': dict(model_type='llama', tie_word_embeddings=True),
    'llama_3': dict(
        model_type='llama',
        rope_parameters=dict(
            rope_type='llama3',
            rope_theta=500000.0,
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=64,
        ),
    ),
    'qwen2_5': dict(model_type='qwen2', tie_word_embeddings=True),
    'qwen3': dict(model_type='qwen3', head_dim=16, tie_word_embeddings=True),
    'mistral_v0_3': dict(model_type='mistral', sliding_window=None),
    'gemma': dict(model_type='gemma', head_dim=8),
    'phi_3': dict(model_type='phi3'),
}


@pytest.fixture(scope='session')
def chat_llm(tmp_path_factory):
    """Function of a family to the folder of its random LLM; read only."""
    folders: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in folders:
            tokenizer = family_tokenizer(family)
            saved = tmp_path_factory.mktemp('tokenizer')
            tokenizer.save_pretrained(saved)
            folders[family] = save_llm(
                tmp_path_factory.mktemp(family),
                saved,
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                vocab_size=len(tokenizer),
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                initializer_range=0.3,
                **CHAT_LLMS[family],
            )
            for file in saved.glob('chat_template*'):
                shutil.copy(file, folders[family])
        return folders[family]

    return make


# greedy answers of random LLMs are long; these many tokens are compared
NEW_TOKENS = 12


@pytest.fixture(scope='session')
def lite_file(tmp_path_factory):
    """A file with the weights of a random lite0."""
    torch.manual_seed(0)
    backbone = EfficientNetLite(arch='lite0', img_size=64, dtype='float32')
    for module in backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 1, 3)
            torch.nn.init.normal_(module.bias, std=0.5)
    file = tmp_path_factory.mktemp('backbone') / 'lite0.pth'
    torch.save(backbone.state_dict(), file)
    return file


@pytest.fixture
def small_cfg(lite_file, tiny_llm_dir):
    """A small model of four image tokens: a map of 4 x 4, pooled."""
    return Config(
        dict(
            model=dict(
                type='minigpt4.MiniGPT4',
                backbone=dict(
                    type='minigpt4.EfficientNetLite',
                    arch='lite0',
                    img_size=128,
                    checkpoint=str(lite_file),
                ),
                neck=dict(type='minigpt4.PatchTokens', grid=2),
                head=dict(type='minigpt4.LinearProjector'),
                decoder=dict(
                    type='minigpt4.LLMDecoder',
                    name_or_path=str(tiny_llm_dir),
                    dtype='float32',
                ),
                prompt_template='vicuna_v0',
                generation=dict(max_new_tokens=NEW_TOKENS),
            )
        )
    )


@pytest.fixture(scope='session')
def save_head():
    """Function that saves a projection whose images change the answers."""

    def save(path, width, layers=1, channels=1280, tokens=0):
        torch.manual_seed(1)
        state = {}
        for i in range(layers):
            name = f'head.layers.{2 * i}.'
            columns = width if i else channels
            state[f'{name}weight'] = torch.randn(width, columns) / columns**0.5
            state[f'{name}bias'] = torch.randn(width) / 10
        if tokens:
            state['head.position_bias'] = torch.randn(tokens, width)
        torch.save(state, path)
        return state

    return save
