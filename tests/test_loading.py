# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Models of a command: every failure is one sentence, no output."""

import io
import logging
from dataclasses import fields
from pathlib import Path

import pytest
from mmengine.logging import MMLogger, print_log

from minigpt4 import loading
from minigpt4.generation.parse_settings import complete_settings
from minigpt4.generation.sampling_params import SamplingParams
from minigpt4_cli import options

NAME = 'minigpt-4_nano_caption'


def test_every_sampling_parameter_is_an_option():
    # logprobs are for programs: no command prints them
    assert {*options.SETTINGS, 'stop', 'logprobs'} == {
        field.name for field in fields(SamplingParams)
    }


@pytest.mark.parametrize(
    'given, completed',
    [
        ({}, {}),
        ({'seed': 1}, {'seed': 1}),
        ({'temperature': 0.5}, {'temperature': 0.5, 'do_sample': True}),
        ({'temperature': 0.0, 'top_p': 0.5}, {'do_sample': False}),
        ({'top_k': 3, 'do_sample': False}, {'top_k': 3, 'do_sample': False}),
    ],
)
def test_a_parameter_of_sampling_turns_sampling_on(given, completed):
    assert complete_settings(given) == completed


@pytest.mark.parametrize(
    'name, pretrained, message',
    [
        ('minigpt-4_vicuna-13b_caption', None, 'no projection is published'),
        ('configs/minigpt4/stage2_nano.py', None, 'no projection'),
        (NAME, 'demo/scene.png', 'cannot be read as weights'),
        (NAME, 'demo', 'demo is a folder; give the file of a checkpoint'),
    ],
)
def test_a_model_without_a_usable_checkpoint_is_refused(
    monkeypatch, name, pretrained, message
):
    monkeypatch.chdir(Path(__file__).parents[1])
    with pytest.raises(ValueError, match=message):
        loading.load_model(name, pretrained, 'cpu')


@pytest.mark.parametrize(
    'text',
    [
        'no config',
        'model = dict(',
        'x = 1',
        'raise KeyError("a")',
        '# \xff\xfe',
        'model = dict(type=int)',
    ],
)
def test_a_file_that_is_no_config_is_refused(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    Path('mine.py').write_text(text, 'latin-1')
    with pytest.raises(ValueError, match='mine.py'):
        loading.load_model('mine.py', 'mine.py', 'cpu')
    if 'int' not in text:  # only building it shows that it is no MiniGPT4
        with pytest.raises(ValueError, match='mine.py is not the config'):
            loading.read_prompt('mine.py')


def test_loading_prints_nothing(capfd):
    with loading.quiet_logs():
        loading.load_model(NAME, None, 'cpu')
    assert capfd.readouterr() == ('', '')


def test_logs_of_a_closed_stream_go_to_standard_error(capfd, monkeypatch):
    """As in a notebook whose output was redirected when mmengine started."""
    closed = io.TextIOWrapper(io.BytesIO())
    closed.close()
    for handler in MMLogger.get_current_instance().handlers:
        monkeypatch.setattr(handler, 'stream', closed)
    with loading.quiet_logs():
        print_log('a warning', logger='current', level=logging.WARNING)
    assert 'a warning' in capfd.readouterr().err
