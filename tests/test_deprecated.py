# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Names of release 0.1 work and warn; the public API is complete."""

import importlib
import subprocess
import sys

import pytest

import minigpt4
from minigpt4.deprecated import MOVED_MODULES


@pytest.mark.parametrize('name', minigpt4.__all__)
def test_public_name_exists(name):
    assert getattr(minigpt4, name) is not None
    assert name in dir(minigpt4)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match='no_such_name'):
        _ = minigpt4.no_such_name


@pytest.fixture
def forget():
    """Let the test import old names again."""
    for name in [f'minigpt4.{old}' for old in MOVED_MODULES]:
        sys.modules.pop(name, None)


@pytest.mark.parametrize('old, new', MOVED_MODULES.items())
def test_moved_module_is_the_new_module(forget, old, new):
    with pytest.warns(DeprecationWarning, match=rf'use minigpt4\.{new}'):
        found = importlib.import_module(f'minigpt4.{old}')
    assert found is importlib.import_module(f'minigpt4.{new}')


def test_warning_names_the_line_of_the_user(tmp_path):
    statements = {
        'from minigpt4.models.engine import Engine': 'generation.engine',
        'from minigpt4.inference import chat': 'chat.session',
        'import minigpt4.inference.server.api': 'serving.http.api',
        'import minigpt4.hub': 'weights.model_hub',
    }
    script = tmp_path / 'mine.py'
    script.write_text('\n'.join(statements))
    done = subprocess.run(
        [sys.executable, '-W', 'always::DeprecationWarning', str(script)],
        capture_output=True,
        text=True,
        check=True,
    )
    for number, new in enumerate(statements.values(), start=1):
        assert any(
            line.startswith(f'{script}:{number}:')
            and f'minigpt4.{new}' in line
            for line in done.stderr.splitlines()
        ), (new, done.stderr)


@pytest.mark.parametrize(
    'module, old, new',
    [
        ('chat.prompt', 'Prompt', 'ChatPrompt'),
        ('chat.session', 'Prompt', 'ChatPrompt'),
        ('generation.sampling_params', 'Settings', 'SamplingParams'),
        ('generation.request', 'Generation', 'GenerationRequest'),
        ('generation.detokenizer', 'TextStream', 'Detokenizer'),
        ('prompts', 'Row', 'TokenizedPrompt'),
        ('engine', 'LateInfoHook', 'DeferredLossHook'),
        ('engine.hooks', 'LateInfoHook', 'DeferredLossHook'),
    ],
)
def test_renamed_member_is_the_new_one(module, old, new):
    home = importlib.import_module(f'minigpt4.{module}')
    with pytest.warns(DeprecationWarning, match=new):
        assert getattr(home, old) is getattr(home, new)
    with pytest.raises(AttributeError):
        _ = home.NoSuchName
