# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 explain``: files, output, errors."""

import json

import pytest
from tests.test_explain.conftest import SCENE

from minigpt4.explain import run
from minigpt4_cli import main as cli


@pytest.fixture
def loads(nano, monkeypatch):
    """The command with the shared model; one item for each load."""
    calls = []

    def load(*args):
        calls.append(args)
        return nano

    monkeypatch.setattr(run, 'load_model', load)
    return calls


def explain(*arguments) -> int:
    return cli.main(['explain', *map(str, arguments)])


def test_page_and_json_are_written(loads, tmp_path, capsys):
    out = tmp_path / 'new' / 'out.html'
    options = ('--prompt', 'How many shapes are there?', '--json')
    assert explain(SCENE, '-o', out, *options) == 0
    data = json.loads(out.with_suffix('.json').read_text('utf-8'))
    assert data['answer'] == 'There are three shapes.'
    assert data['prompt'] == 'How many shapes are there?'
    assert data['image'] == 'scene.png'
    assert data['format'] == 'minigpt4 explain 1'
    text = out.read_text('utf-8')
    assert 'data:image/jpeg;base64,' in text and '/scene.png' not in text
    printed = capsys.readouterr().out
    assert printed.startswith('There are three shapes.\n')
    assert 'three: +' in printed
    # again, to the same files
    assert explain(SCENE, '-o', out, '-q') == 0
    assert capsys.readouterr().out == ''


def test_errors_before_the_model_is_loaded(loads, tmp_path, capsys):
    out = tmp_path / 'out.html'
    text = tmp_path / 'text.png'
    text.write_text('no image')
    mine = tmp_path / 'mine.html'
    mine.write_text('mine')
    for arguments, status, message in (
        ((SCENE, SCENE, '-o', out), 2, '2 images were given'),
        ((SCENE, '-o', tmp_path / 'out.png'), 2, 'the suffix .html'),
        ((SCENE, '-o', out, '--prompt', ' '), 2, '--prompt is empty'),
        ((SCENE, '-o', out, '--json', out), 2, 'the same file'),
        ((SCENE, '-o', out, '--model', 'none'), 2, 'none'),
        ((text, '-o', out), 1, 'text.png'),
        ((tmp_path / 'gone.png', '-o', out), 1, 'gone.png'),
        ((tmp_path, '-o', out), 1, str(tmp_path)),
        ((SCENE, '-o', mine), 1, 'no explanation'),
    ):
        try:
            found = explain(*arguments)
        except SystemExit as stop:
            found = stop.code
        error = capsys.readouterr().err
        assert found == status and message in error, error
        assert 'Traceback' not in error
    assert not loads and not out.exists() and mine.read_text() == 'mine'


def test_two_image_slots_are_one_sentence(loads, tmp_path, capsys):
    prompt = '<ImageHere> or <ImageHere>?'
    assert explain(SCENE, '-o', tmp_path / 'a.html', '--prompt', prompt) == 1
    assert '2 image' in capsys.readouterr().err
    assert not (tmp_path / 'a.html').exists()


@pytest.mark.slow
def test_the_small_model(small_cache, tmp_path):
    out = tmp_path / 'out.html'
    options = ('--model', 'minigpt-4_small_caption', '--max-new-tokens', 3)
    assert explain(SCENE, '-o', out, '--json', *options) == 0
    data = json.loads(out.with_suffix('.json').read_text('utf-8'))
    assert data['regions'] == 'grid' and data['grid'] == [4, 4]
    tokens = data['image_tokens']
    assert tokens['names'][7:9] == ['prefix 8', 'row 1, column 1']
    assert tokens['maps'][7] == [[0] * 4] * 4
    assert tokens['maps'][8][0] == [1, 0, 0, 0]
    assert len(data['words']['attention'][0]) == 24
