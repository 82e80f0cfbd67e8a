# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""``minigpt4 eval --score`` of each protocol: the scores of the run."""

import json
import math

import pytest
from PIL import Image

from minigpt4.endpoints.answers import message_digest
from minigpt4.evaluation.abilities import JUDGE_PROMPT
from minigpt4.evaluation.coverage import judge_message
from minigpt4_cli import eval as eval_command
from minigpt4_cli import main as cli

# what measures nothing, so that it has no scores of its own
TOOLS = {'agreement', 'marks', 'paper', 'report'}


def run(*words) -> int:
    return cli.main(['eval', *map(str, words)])


def summary(folder):
    return json.loads((folder / 'summary.json').read_text())


def write(path, content):
    path.write_text(json.dumps(content))
    return path


def write_lines(path, rows):
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    return path


def questions(folder, protocol):
    """The files of a protocol with questions about two images."""
    ids = (1, 2)
    images = folder / 'val'
    images.mkdir()
    for id_ in ids:
        Image.new('RGB', (64, 64), 'red').save(images / f'{id_:012d}.jpg')
    asked = [
        dict(question_id=i, image_id=i, question=f'What is {i}?') for i in ids
    ]
    if protocol == 'pope':
        rows = [
            dict(question_id=i, image=f'{i:012d}.jpg', text='Is it?', label=a)
            for i, a in zip(ids, ('yes', 'no'), strict=True)
        ]
        file = write_lines(folder / 'q.json', rows)
    elif protocol == 'gqa':
        rows = [
            dict(
                question_id=i, image=f'{i:012d}.jpg', question='?', answer='a'
            )
            for i in ids
        ]
        file = write(folder / 'q.json', rows)
    elif protocol.startswith('aokvqa'):
        answers = dict(
            choices=['red', 'blue'],
            correct_choice_idx=0,
            direct_answers=['red'] * 10,
        )
        file = write(folder / 'q.json', [row | answers for row in asked])
    else:
        name = 'v2_' * (protocol == 'vqav2')
        write(
            folder / f'{name}OpenEnded_mscoco_val2014_questions.json',
            dict(questions=asked),
        )
        answers = dict(answers=[dict(answer='red')] * 10)
        file = write(
            folder / f'{name}mscoco_val2014_annotations.json',
            dict(annotations=[row | answers for row in asked]),
        )
    return ('--questions', file, '--images', images, '--max-new-tokens', 8)


def options(folder, protocol):
    """A small run of a protocol: all but ``-o``."""
    captions = {1: 'A dog and a cat.', 2: 'A cat.'}
    given = (
        '--captions',
        write_lines(
            folder / 'captions.jsonl',
            [dict(image_id=i, caption=text) for i, text in captions.items()]
            + [dict(image_id=77, caption='Other.')],
        ),
    )
    references = write(
        folder / 'references.json',
        dict(
            images=[dict(id=i, file_name=f'{i:04d}.jpg') for i in (1, 2, 3)],
            annotations=[
                dict(id=i, image_id=i, caption=f'Two cats, {i} dogs')
                for i in (1, 2, 3)
            ],
        ),
    )
    images = ('--images', folder / 'images')
    described = ('--annotations', folder / 'captions.json')
    if protocol == 'match':
        return (*images, *described, '--limit', 4)
    if protocol == 'chair':
        # the first id has no caption
        classes = {'0': ['cow'], '1': ['dog'], '2': ['cat']}
        truth = write(folder / 'truth.json', classes)
        return (*given, '--truth', truth, '--variants')
    if protocol == 'captions':
        return (*given, '--annotations', references)
    if protocol == 'coverage':
        answers = [
            dict(
                digest=message_digest(
                    judge_message(f'Two cats, {i} dogs', text), 'j'
                ),
                answer='Yes.' if i == 1 else 'no',
            )
            for i, text in captions.items()
        ]
        judge = write_lines(folder / 'judge.jsonl', answers)
        return (
            *(*given, '--annotations', references),
            *('--judge-answers', judge, '--judge-model', 'j'),
        )
    if protocol == 'failures':
        return (*images, '--count', 2, '--max-new-tokens', 20)
    if protocol == 'abilities':
        (folder / 'meme').mkdir()
        (folder / 'images' / '000.png').rename(folder / 'meme' / '000.png')
        return ('--images', folder, '--max-new-tokens', 20)
    return questions(folder, protocol)


@pytest.mark.parametrize('protocol', sorted({*eval_command.PROTOCOLS} - TOOLS))
def test_each_protocol_is_scored_again(nano_set, loads, capsys, protocol):
    out = nano_set / 'out'
    words = (protocol, *options(nano_set, protocol), '-q', '-o', out)
    assert run(*words) == 0
    printed, stored = capsys.readouterr().out, summary(out)
    for path in nano_set.glob('*.json*'):  # only the folder is needed
        path.unlink()
    number = len(loads)
    assert run('--score', out) == 0
    assert summary(out) == stored
    again = capsys.readouterr()
    assert again.out == printed
    assert len(loads) == number
    if protocol in ('chair', 'captions'):
        assert 'such as "77"; it has ids such as "1"' in again.err
        # without the summary of the run: the same, and what lacks is named
        (out / 'summary.json').unlink()
        assert run('--score', out) == 0
        error = capsys.readouterr().err
        for name in stored.keys() - summary(out).keys():
            assert name in error.split('not scored again: ')[1]
        found = summary(out)
        assert found == {name: stored[name] for name in found}
        assert len(stored) - len(found) == 1 + (protocol == 'captions')


def test_judged_abilities_are_scored_again(nano_set, loads, capsys):
    out = nano_set / 'out'
    words = (*options(nano_set, 'abilities'), '-q', '-o', out)
    assert run('abilities', *words) == 0
    (row,) = map(json.loads, (out / 'answers.jsonl').read_text().splitlines())
    message = JUDGE_PROMPT.format(prompt=row['prompt'], answer=row['answer'])
    answers = [dict(digest=message_digest(message, 'j'), answer='Yes, it is')]
    judge = ('--judge-answers', write_lines(nano_set / 'j.jsonl', answers))
    assert run('abilities', *words, *judge, '--judge-model', 'j') == 0
    printed, stored = capsys.readouterr().out, summary(out)
    assert stored['tasks']['meme']['judged']['value'] == 1
    assert run('--score', out) == 0
    assert summary(out) == stored
    assert capsys.readouterr().out in printed
    assert run('--score', out, '--option', 'parser=exact') == 0
    assert summary(out)['tasks']['meme']['judged']['value'] == 0


def test_files_that_scores_need_are_named(nano_set, capsys):
    for protocol, name in (
        ('captions', 'references.json'),
        ('chair', 'truth.json'),
    ):
        out = nano_set / protocol
        assert run(protocol, *options(nano_set, protocol), '-o', out) == 0
        (out / name).unlink()
        assert run('--score', out) == 1
        assert f'has no {name}, which scores' in capsys.readouterr().err
        (out / name).write_text('{"1": {"image": "1", "captions": []}}')
        assert run('--score', out) == 1
        assert name in capsys.readouterr().err
    # the folder of "minigpt4 eval paper" has one folder for each
    assert run('--score', nano_set) == 1
    error = capsys.readouterr().err
    assert 'results of several measurements; give one of' in error


def test_variants_with_another_truth_are_named(nano_set, capsys):
    other = write(nano_set / 'other.json', {'1': ['cat'], '2': ['dog']})
    words = (*options(nano_set, 'chair'), '--variant-truth', other)
    out = nano_set / 'out'
    assert run('chair', *words, '-o', out) == 0
    variants = summary(out)['variants']
    assert run('--score', out) == 0
    assert summary(out)['variants'] == variants[:-1]
    assert 'not scored again: truth: other.json' in capsys.readouterr().err


def stored(tmp_path, protocol, file, row, **settings):
    """A folder of results with one row."""
    (tmp_path / 'settings.json').write_text(
        json.dumps(dict(protocol=protocol, count=1, seed=0) | settings)
    )
    (tmp_path / file).write_text(json.dumps(row) + '\n')
    (tmp_path / 'truth.json').write_text('{"1": ["dog"]}')
    (tmp_path / 'references.json').write_text(
        '{"1": {"image": "1", "captions": ["A dog."]}}'
    )


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
        ('captions', 'captions.jsonl', dict(image_id=1), 'is damaged'),
        (
            *('captions', 'captions.jsonl'),
            *(dict(image_id=1, caption=5), 'is damaged'),
        ),
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
