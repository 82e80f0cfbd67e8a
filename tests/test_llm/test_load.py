# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The end-of-text tokens of an LLM's folder are known after loading."""

import json
import shutil

import pytest

from minigpt4.llm.load import eos_token_ids, load_llm


def write(folder, **files):
    for name, content in files.items():
        (folder / f'{name}.json').write_text(json.dumps(content))


@pytest.mark.parametrize(
    ('generation', 'config', 'expected'),
    [
        (dict(eos_token_id=[7, 9]), dict(eos_token_id=9), [7, 9]),
        (dict(eos_token_id=7), dict(eos_token_id=[9]), [7, 9]),
        ({}, dict(eos_token_id=9), [9]),
        ({}, dict(model_type='llama'), []),
        (dict(eos_token_id=None), dict(eos_token_id='9'), []),
    ],
)
def test_all_end_of_text_tokens_are_found(
    tmp_path, generation, config, expected
):
    write(tmp_path, generation_config=generation, config=config)
    assert eos_token_ids(tmp_path) == expected


def test_folder_without_generation_config(tmp_path):
    write(tmp_path, config=dict(eos_token_id=2))
    assert eos_token_ids(tmp_path) == [2]


def test_loaded_llm_keeps_them_alone(tiny_llm_dir, tmp_path):
    folder = shutil.copytree(tiny_llm_dir, tmp_path / 'llm')
    write(folder, generation_config=dict(eos_token_id=[2, 5], temperature=0.1))
    found = load_llm(str(folder)).generation_config
    assert found.eos_token_id == [2, 5]
    assert found.temperature != 0.1
