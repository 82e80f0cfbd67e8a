# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 eval --score`` of captions and losses: the scores of the run."""

import json
import math

import pytest

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


def stored(tmp_path, protocol, file, row, **settings):
    """A folder of results with one row."""
    (tmp_path / 'settings.json').write_text(
        json.dumps(dict(protocol=protocol, count=1, seed=0) | settings)
    )
    (tmp_path / file).write_text(json.dumps(row) + '\n')
    (tmp_path / 'truth.json').write_text('{"1": ["dog"]}')


POPE = dict(
    number=0, id=7, image='a', file='a', answer='Yes', truth=dict(label='no')
)
AOKVQA = dict(
    number=0,
    id=7,
    image='a',
    file='a',
    choices=['a', 'b'],
    log_likelihoods=[-1, -2],
    truth=dict(index=0),
)


@pytest.mark.parametrize(
    ('protocol', 'file', 'row', 'message'),
    [
        ('pope', 'answers.jsonl', POPE | dict(answer=None), 'question 7'),
        ('pope', 'answers.jsonl', POPE | dict(answer=5), 'question 7'),
        ('pope', 'answers.jsonl', POPE | dict(truth={}), 'question 7'),
        (
            *('aokvqa', 'answers.jsonl'),
            *(AOKVQA | dict(log_likelihoods=[math.nan] * 2), 'question 7'),
        ),
        (
            *('aokvqa', 'answers.jsonl'),
            *(AOKVQA | dict(log_likelihoods=[-1]), 'question 7'),
        ),
        ('chair', 'captions.jsonl', dict(caption='a'), 'is damaged'),
        (
            *('chair', 'captions.jsonl'),
            *(dict(image_id=1, caption=5), 'is damaged'),
        ),
        (
            *('match', 'losses.jsonl'),
            *(dict(image='a', id=1, loss=math.nan), 'line 1 is not JSON'),
        ),
        ('match', 'losses.jsonl', dict(image='a', id=1), 'is damaged'),
        ('coverage', 'judgements.jsonl', dict(key='a'), 'is damaged'),
        ('failures', 'answers.jsonl', dict(number=0), 'is damaged'),
    ],
)
def test_a_damaged_row_ends_with_one_sentence(
    tmp_path, capsys, protocol, file, row, message
):
    stored(tmp_path, protocol, file, row)
    assert run('--score', tmp_path) == 1
    error = capsys.readouterr().err
    assert message in error
    assert 'not an expected error' not in error
