# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Settings of exported folders, and what the package may import."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from jinja2 import Environment, nodes
from PIL import Image

from minigpt4_vllm.folder import image_tokens, is_exported, read_settings

PACKAGE = Path(__file__).resolve().parents[2] / 'projects' / 'minigpt4_vllm'
NOT_INSTALLED = {'mmcv', 'mmengine', 'mmpretrain', 'minigpt4', 'minigpt4_cli'}
LOADED = f"""
import sys, minigpt4_vllm, minigpt4_vllm.answers, minigpt4_vllm.folder
sys.exit(sorted({{*sys.modules}} & {NOT_INSTALLED}) or None)
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    """The files of an exported folder that are read, to be changed."""
    write(tmp_path, 'minigpt4.json', dict(stop=['###']))
    write(tmp_path, 'generation_config.json', dict(do_sample=False))
    return tmp_path


def write(folder, name, data):
    (folder / name).write_text(json.dumps(data), 'utf-8')


def imports(path: Path) -> set[str]:
    """The top-level packages that a module imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text('utf-8'))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split('.')[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(str(node.module).split('.')[0])
    return found


def test_no_module_imports_mmengine():
    files = sorted(PACKAGE.glob('*.py'))
    assert len(files) >= 8
    found = {path.name: imports(path) & NOT_INSTALLED for path in files}
    assert not any(found.values()), found


def test_nothing_loads_mmengine():
    run = subprocess.run(
        [sys.executable, '-c', LOADED], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


def test_an_exported_folder_is_found(nano_folder, tmp_path):
    assert is_exported(nano_folder) and is_exported(str(nano_folder))
    for other in (
        tmp_path,
        tmp_path / 'missing',
        'Salesforce/blip2',
        '',
        None,
    ):
        assert not is_exported(other)


def test_settings_of_an_export(nano_folder):
    settings = read_settings(nano_folder)
    assert settings.stop == ('###',)
    assert settings.is_greedy
    assert settings.suppressed == ()


def test_suppressed_tokens_and_sampling(folder):
    write(
        folder,
        'generation_config.json',
        dict(do_sample=True, suppress_tokens=[7, 8]),
    )
    settings = read_settings(folder)
    assert settings.suppressed == (7, 8)
    assert not settings.is_greedy


def test_slots_have_the_tokens_of_the_processor(nano_folder):
    """One image token per image in the text becomes those of an image."""
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(nano_folder)
    parts = [
        dict(type='text', text='Is'),
        dict(type='image'),
        dict(type='text', text='like'),
        dict(type='image'),
        dict(type='text', text='?'),
    ]
    text = processor.apply_chat_template(
        [dict(role='user', content=parts)], add_generation_prompt=True
    )
    ids = processor.tokenizer(text, add_special_tokens=False).input_ids
    config = json.loads((nano_folder / 'config.json').read_text('utf-8'))
    token, count = image_tokens(config)
    assert ids.count(token) == 2
    expanded = []
    for i in ids:
        expanded += [token] * count if i == token else [i]
    with Image.open(PACKAGE.parents[1] / 'demo' / 'scene.png') as image:
        inputs = processor(text=text, images=[image.convert('RGB')] * 2)
    (expected,) = inputs['input_ids']
    assert expanded == [*expected]


def test_the_template_loops_over_content(nano_folder):
    """By the name vLLM knows that it takes parts, and keeps their order."""
    template = (nano_folder / 'chat_template.jinja').read_text('utf-8')
    loops = Environment().parse(template).find_all(nodes.For)
    assert 'content' in {getattr(loop.iter, 'name', None) for loop in loops}


def test_tokens_of_both_classes():
    blip2 = dict(model_type='blip-2', image_token_index=0, num_query_tokens=32)
    assert image_tokens(blip2) == (0, 32)
    fast = dict(
        model_type='fast_vlm', image_token_index=3, image_seq_length=16
    )
    assert image_tokens(fast) == (3, 16)


def test_another_model_is_refused():
    with pytest.raises(ValueError, match="'llava'; expected one of blip-2"):
        image_tokens(dict(model_type='llava'))


@pytest.mark.parametrize('stop', [None, '###', [1]])
def test_a_folder_of_an_older_version_is_refused(folder, stop):
    write(folder, 'minigpt4.json', {} if stop is None else dict(stop=stop))
    with pytest.raises(ValueError, match='no list "stop".*write it again'):
        read_settings(folder)


@pytest.mark.parametrize('content', ['', '[]', '{"a"', None])
def test_a_damaged_folder_is_refused(folder, content):
    file = folder / 'generation_config.json'
    if content is None:
        file.unlink()
    else:
        file.write_text(content)
    with pytest.raises(ValueError, match='generation_config.json.*again'):
        read_settings(folder)
