# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The nano model, as it is and as an exported Hugging Face folder."""

import copy
from pathlib import Path

import pytest
from mmengine.config import Config

from minigpt4.captioning.inferencer import get_model
from minigpt4.convert.huggingface_export import export_huggingface
from minigpt4.convert.model_shapes import load_config

NANO = 'minigpt-4_nano_caption'


@pytest.fixture(scope='session')
def nano_folder(tmp_path_factory) -> Path:
    """The exported nano model; tests must not change it."""
    folder = tmp_path_factory.mktemp('export') / 'nano'
    export_huggingface(NANO, None, folder)
    return folder


@pytest.fixture(scope='session')
def nano_model():
    """The nano model; tests must not change it."""
    return get_model(NANO, device='cpu')


@pytest.fixture
def nano_cfg() -> Config:
    """A config of the nano model that a test may change."""
    return copy.deepcopy(load_config(NANO))
