# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 eval paper`` and ``report`` on the nano model."""

import json
import random
import shutil
from argparse import ArgumentParser
from pathlib import Path

import pytest

from minigpt4.nano.world import render, sample_scene
from minigpt4_cli import main as cli
from minigpt4_cli.eval_paper import (
    LONG,
    RECIPES,
    SHORT,
    add_paper_options,
    run_paper,
)
from minigpt4_cli.options import UsageError


@pytest.fixture
def data(tmp_path):
    """A folder of data with four images for all but A-OKVQA and GQA."""
    folder = tmp_path / 'data'
    (folder / 'pope').mkdir(parents=True)
    (folder / 'coco/val2014').mkdir(parents=True)
    rng = random.Random(2)  # the nano judge answers about these scenes
    for i in range(4):
        image = render(sample_scene(rng), rng)
        image.save(folder / f'coco/val2014/{i}.png')
    (folder / 'pope/coco_pope_random.json').write_text(
        '\n'.join(
            json.dumps(
                dict(
                    question_id=i,
                    image=f'{i}.png',
                    text='Is there a dog?',
                    label='no',
                )
            )
            for i in range(4)
        )
    )
    for name in ('coco/test2014', 'abilities/meme', 'abilities/poem'):
        shutil.copytree(folder / 'coco/val2014', folder / name)
    (folder / 'coco/annotations').mkdir()
    (folder / 'coco/annotations/captions_val2014.json').write_text(
        json.dumps(
            dict(
                images=[dict(id=i, file_name=f'{i}.png') for i in range(4)],
                annotations=[
                    dict(id=i, image_id=i, caption='two shapes')
                    for i in range(4)
                ],
            )
        )
    )
    truth = {str(i): ['dog'] for i in range(4)}
    (folder / 'coco/chair_objects.json').write_text(json.dumps(truth))
    return folder


def run(*words) -> int:
    try:
        return cli.main(['eval', *map(str, words)])
    except SystemExit as error:
        return error.code


@pytest.fixture
def loads(monkeypatch):
    """One item for each model that is built."""
    from minigpt4 import loading

    calls = []
    build = loading.get_model
    monkeypatch.setattr(
        loading, 'get_model', lambda *args: calls.append(args) or build(*args)
    )
    return calls


def test_the_model_is_loaded_once(tmp_path, data, loads):
    words = ('paper', '--data', data, '--limit', 1, '-q', '--device', 'cpu')
    only = ('--only', 'pope-random', '--only', 'chair-short')
    assert run(*words, '-o', tmp_path / 'a', *only) == 0
    assert len(loads) == 1
    assert run(*words, '-o', tmp_path / 'b', *only) == 0
    assert len(loads) == 2


def test_what_is_there_is_measured(tmp_path, data, capsys, loads):
    out = tmp_path / 'out'
    words = (
        *('paper', '--data', data, '-o', out, '--limit', 3, '-q'),
        *('--model', 'minigpt-4_nano_caption', '--device', 'cpu'),
        *('--judge', 'local:minigpt-4_nano_caption'),
    )
    assert run(*words) == 0
    printed = capsys.readouterr()
    assert '== pope-random' in printed.out
    assert 'skipped: gqa (appendix A.2, table 5): ' in printed.err
    page = (out / 'report.html').read_text()
    for name in ('chair-long', 'chair-short', 'pope-random'):
        assert f'<h2>{name}</h2>' in page
        summary = json.loads((out / name / 'summary.json').read_text())
        assert summary['settings']['limit'] == 3
    assert 'gqa/testdev_balanced_questions.json, ' in page
    for name in ('abilities', 'coverage', 'failures'):
        assert f'<h2>{name}</h2>' in page
    assert '66.20 % (MiniGPT-4, judged by ChatGPT' in page
    assert '2.00 % (after stage 2, counted by people' in page
    assert page.count('data:image/jpeg') >= 9
    # nothing is measured again
    number = len(loads)
    assert run(*words) == 0
    assert len(loads) == number
    folders = [out / 'pope-random', out / 'chair-long']
    assert run('report', *folders, '-o', tmp_path / 'both.html') == 0
    assert '<h2>chair-long</h2>' in (tmp_path / 'both.html').read_text()


def test_a_measurement_that_fails_does_not_end_the_others(
    tmp_path, data, capsys
):
    (data / 'pope/coco_pope_random.json').write_text('no json')
    out = tmp_path / 'out'
    words = ('paper', '--data', data, '-o', out, '--limit', 1, '-q')
    only = ('--only', 'pope-random', '--only', 'failures')
    assert run(*words, *only) == 1
    assert 'pope-random (not in the paper) failed' in capsys.readouterr().err
    page = (out / 'report.html').read_text()
    assert '<h2>failures</h2>' in page
    assert 'pope-random (not in the paper) failed' in page


def test_a_measurement_with_a_judge_needs_one(tmp_path, data, capsys):
    words = ('paper', '--data', data, '-o', tmp_path / 'out', '--only')
    assert run(*words, 'coverage') == 2
    assert 'it needs a judge' in capsys.readouterr().err


def test_wrong_folders_and_names_are_refused(tmp_path, data, capsys):
    assert run('paper', '--data', tmp_path / 'no', '-o', tmp_path) == 2
    assert 'does not exist' in capsys.readouterr().err
    assert run('paper', '--data', tmp_path, '-o', tmp_path / 'out') == 2
    error = capsys.readouterr().err
    assert 'no measurement was made' in error
    missing = [x for x in error.splitlines() if x.startswith('skipped: ')]
    assert len(missing) == len(RECIPES)
    assert all('; get ' in line for line in missing)
    assert 'github.com/allenai/aokvqa' in error
    assert 'github.com/RUCAIBox/POPE' in error
    assert run('paper', '--data', data, '-o', data, '--only', 'mme') == 2
    assert 'invalid choice' in capsys.readouterr().err
    assert run('report', tmp_path, '-o', tmp_path / 'a.html') == 1
    assert 'has no settings.json' in capsys.readouterr().err


def test_options_reach_each_measurement(tmp_path, data):
    """The words of each command; the first one ends with status 1."""
    parser = ArgumentParser()
    add_paper_options(parser)
    out = tmp_path / 'out'
    options = (
        *('--data', data, '-o', out, '--model', 'm', '--pretrained', 'p.pth'),
        *('--device', 'cpu', '--limit', 7, '--slots', 3, '-q'),
        *('--judge-model', 'j', '--judge-answers', 'a.jsonl'),
        *('--judge-option', 'retries=0', '--max-cost', 2),
        *('--parser', 'exact'),
    )
    commands = {}

    def measure(words):
        folder = Path(words[-1])
        commands[folder.name] = words
        folder.mkdir(parents=True)
        protocol = dict(protocol=words[0])
        (folder / 'settings.json').write_text(json.dumps(protocol))
        (folder / 'summary.json').write_text(
            json.dumps(dict(protocol, settings={}, scores={}))
        )
        return int(len(commands) == 1)

    assert run_paper(parser.parse_args(list(map(str, options))), measure) == 1
    assert list(commands) == [
        *('chair-long', 'chair-short', 'abilities', 'coverage', 'failures'),
        'pope-random',
    ]
    model = [
        *('--model', 'm', '--slots', '3', '--pretrained', 'p.pth'),
        *('--device', 'cpu'),
    ]
    judge = [
        *('--parser', 'exact', '--judge-model', 'j'),
        *('--judge-answers', 'a.jsonl', '--max-cost', '2.0'),
        *('--judge-option', 'retries=0'),
    ]
    coco = data / 'coco'
    for name, prompt in (('chair-long', LONG), ('chair-short', SHORT)):
        assert commands[name] == [
            *('chair', '--prompt', prompt),
            *('--truth', str(coco / 'chair_objects.json')),
            *('--images', str(coco / 'val2014'), *model, '--limit', '7'),
            *('--quiet', '-o', str(out / name)),
        ]
    assert commands['abilities'] == [
        *('abilities', '--images', str(data / 'abilities'), *model, *judge),
        *('--quiet', '-o', str(out / 'abilities')),
    ]
    assert commands['coverage'][-len(judge) - 5 : -3] == [
        *('--limit', '7', *judge),
    ]
    assert commands['failures'] == [
        *('failures', '--images', str(coco / 'test2014'), *model),
        *('--count', '7', '--quiet', '-o', str(out / 'failures')),
    ]


@pytest.mark.parametrize(
    ('options', 'names'),
    [
        # without a judge; people may judge the abilities
        ((), ['abilities', 'failures']),
        (('--only', 'failures'), ['failures']),
        (
            ('--judge-model', 'j', '--judge-url', 'http://x', '--estimate'),
            ['abilities', 'coverage', 'failures'],
        ),
    ],
)
def test_which_measurements_are_made(tmp_path, data, options, names):
    for path in ('coco/chair_objects.json', 'pope/coco_pope_random.json'):
        (data / path).unlink()
    parser = ArgumentParser()
    add_paper_options(parser)
    words = ('--data', data, '-o', tmp_path / 'out', *options)
    commands = {}

    def measure(words):
        commands[words[0]] = words
        return 0

    args = parser.parse_args(list(map(str, words)))
    with pytest.raises(UsageError, match='no measurement was made'):
        run_paper(args, measure)  # no command has written results
    assert list(commands) == names
    for name, command in commands.items():
        judged = name != 'failures' and '--judge-model' in options
        assert ('--judge-model' in command) is judged
        assert ('--estimate' in command) is judged


def test_the_prompts_are_those_of_the_paper():
    """Section 4.5."""
    assert LONG == 'Please describe this image as detailed as possible.'
    assert SHORT == (
        'Please describe the image shortly and precisely, in less than 20 '
        'words.'
    )


def test_recipes_are_commands_of_the_verb():
    from minigpt4_cli.eval import add_arguments

    parser = ArgumentParser()
    add_arguments(parser)
    for recipe in RECIPES:
        words = [recipe.protocol, *recipe.options]
        for option, name in recipe.files.items():
            words += [option, name]
        assert parser.parse_args(words).protocol == recipe.protocol
