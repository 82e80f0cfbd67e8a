# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 eval --score`` of captions and losses: the scores of the run."""

import json

from minigpt4_cli import main as cli


def run(*words) -> int:
    return cli.main(['eval', *map(str, words)])


def summary(folder):
    return json.loads((folder / 'summary.json').read_text())


def test_captions_are_scored_again(tmp_path, capsys):
    (tmp_path / 'truth.json').write_text('{"1": ["dog"], "2": ["cat"]}')
    (tmp_path / 'captions.jsonl').write_text(
        '{"image_id": 1, "caption": "A dog and a cat."}\n'
        '{"image_id": 2, "caption": "A cat."}\n'
    )
    out = tmp_path / 'out'
    options = ('--bootstrap', 50)
    assert (
        run(
            *('chair', '--captions', tmp_path / 'captions.jsonl'),
            *('--truth', tmp_path / 'truth.json', '-o', out, *options),
        )
        == 0
    )
    printed, stored = capsys.readouterr().out, summary(out)
    (out / 'summary.json').unlink()
    (tmp_path / 'truth.json').unlink()
    assert run('--score', out, *options) == 0
    assert summary(out) == stored
    assert capsys.readouterr().out == printed


def test_losses_are_scored_again(nano_set, capsys):
    out = nano_set / 'out'
    assert (
        run(
            *('match', '--annotations', nano_set / 'captions.json', '-q'),
            *('--images', nano_set / 'images', '-o', out, '--limit', 4),
            *('--model', 'minigpt-4_nano_caption', '--device', 'cpu'),
        )
        == 0
    )
    printed, stored = capsys.readouterr().out, summary(out)
    assert run('--score', out) == 0
    assert summary(out) == stored
    assert capsys.readouterr().out == printed
