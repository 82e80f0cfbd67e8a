# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Comparisons of ``coverage``, ``failures`` and ``abilities`` by hand."""

import json

import pytest

from minigpt4.evaluation.abilities_run import abilities_summary
from minigpt4.evaluation.compare import compare_results
from minigpt4.evaluation.compared_folder import read_results
from minigpt4.evaluation.coverage_run import coverage_summary
from minigpt4.evaluation.failures import PROMPTS
from minigpt4.evaluation.failures_run import failures_summary
from minigpt4.evaluation.result_folder import ResultFolder
from minigpt4_cli import main as cli

GOOD = 'The image shows a dog.'
REPEATED = 'A dog dog dog dog sits.'


def judgement(key, answer, **fields):
    return dict(
        key=key,
        digest=f'{key} {answer}',
        **fields,
        answer=answer,
        model='j',
        date='2026-11-29',
        prompt_tokens=1,
        completion_tokens=1,
        cost_usd=0,
    )


@pytest.fixture
def coverage_folder(tmp_path):
    """Writes a result folder of coverage, of answers by image id."""

    def write(name, answers, reference='A dog.', parser='first-word'):
        rows = [
            judgement(
                id_,
                answer or '',
                image_id=id_,
                reference=reference,
                caption=f'caption {name}',
            )
            | ({} if answer else dict(problem='it is empty'))
            for id_, answer in answers
        ]
        folder = tmp_path / name
        with ResultFolder(
            folder, 'coverage', dict(name=name), 'judgements.jsonl'
        ) as out:
            out.add(rows)
            out.write_summary(coverage_summary(rows, parser))
        return folder

    return write


@pytest.fixture
def failures_folder(tmp_path):
    """Writes a result folder of failures: ``(image, group, answer)``."""

    def write(name, answers, truth=None):
        rows = [
            dict(
                number=number,
                group=group,
                image_id=image,
                image=f'/photos/{image}.jpg',
                prompt=PROMPTS[group],
                answer=answer,
                finished=True,
                tokens=9,
            )
            | ({} if truth is None else dict(truth=truth))
            for number, (image, group, answer) in enumerate(answers)
        ]
        folder = tmp_path / name
        with ResultFolder(folder, 'failures', {}, 'answers.jsonl') as out:
            # answers arrive in any order
            out.add(rows[::-1])
            out.write_summary(failures_summary(rows))
        return folder

    return write


@pytest.fixture
def abilities_folder(tmp_path):
    """Writes a result folder of abilities: ``(task, image, judgement)``."""

    def write(name, answers, judge='j'):
        rows = [
            dict(
                number=number,
                group=task,
                image=f'/{name}/{task}/{image}.jpg',
                prompt=f'Make a {task}.',
                answer=f'answer {name}',
                finished=True,
                tokens=9,
            )
            for number, (task, image, _) in enumerate(answers)
        ]
        judged = [
            judgement(f'{number:06d}', answer) | dict(model=judge)
            for number, (_, _, answer) in enumerate(answers)
            if answer
        ]
        folder = tmp_path / name
        with ResultFolder(folder, 'abilities', {}, 'answers.jsonl') as out:
            out.add(rows)
            out.write_summary(abilities_summary(rows, judged, 'first-word'))
        if judged:
            text = ''.join(json.dumps(row) + '\n' for row in judged)
            (folder / 'judgements.jsonl').write_text(text)
        return folder

    return write


def compare(first, second, **options):
    return compare_results(
        read_results(first), read_results(second), **options
    )


def values(folder):
    """The values of a flat summary."""
    scores = json.loads((folder / 'summary.json').read_text())['scores']
    return {name: score['value'] for name, score in scores.items()}


def test_covered_captions_are_counted(coverage_folder):
    first = coverage_folder(
        '1', [('a', 'Yes.'), ('b', 'yes'), ('c', 'no'), ('d', 'Perhaps')]
    )
    # c had no answer at first; e is only here
    answers = zip(
        'cabcde', (None, 'No', 'no', 'Yes', 'yes', 'yes'), strict=True
    )
    second = coverage_folder('2', list(answers))
    found = compare(first, second)
    score = found.summary['scores']['coverage']
    assert (score['first'], score['second']) == (0.5, 0.5)
    # two images change for the better and two for the worse: a difference of
    # 0 is the smallest, so that all 16 ways to swap are as large
    assert score['p'] == 1
    good = found.summary['good']
    assert (good['both'], good['only_first'], good['only_second']) == (0, 2, 2)
    assert good['p'] == 1 and found.summary['second']['only_here'] == 1
    assert [pair.first.key for pair in found.pairs] == ['a', 'b', 'c', 'd']
    assert found.pairs[0].first.text == 'caption 1'
    assert found.pairs[3].first.note == 'the judge: Perhaps'
    assert found.summary['settings'] == [
        dict(name='name', first='1', second='2')
    ]


def test_coverage_has_the_values_of_the_summaries(coverage_folder):
    answers = [(f'{i}', ('yes', 'Yes, it does')[i % 2]) for i in range(5)]
    first = coverage_folder('1', [*answers, ('x', None)])
    second = coverage_folder('2', answers, parser='exact')
    found = compare(first, second).summary
    score = found['scores']['coverage']
    assert (score['first'], score['second']) == (1, 0.6)
    assert score['first'] == values(first)['coverage']
    assert score['second'] == values(second)['coverage']
    assert found['first']['failed'] == 1
    assert (
        dict(name='scoring.parser', first='first-word', second='exact')
        in (found['settings'])
    )


def test_other_references_are_refused(coverage_folder):
    first = coverage_folder('1', [('a', 'yes')])
    second = coverage_folder('2', [('a', 'yes')], reference='A cat.')
    with pytest.raises(ValueError, match='a is not the same in .* A dog'):
        compare(first, second)


def test_kinds_of_failure_are_compared(failures_folder):
    images = [('a', 'caption'), ('b', 'caption'), ('a', 'poem'), ('b', 'poem')]
    first = failures_folder(
        '1',
        [(*x, y) for x, y in zip(images, [GOOD, GOOD, GOOD, ''], strict=True)],
        truth=['dog'],
    )
    answers = [REPEATED, 'A wall', GOOD, GOOD]
    second = failures_folder(
        '2',
        [(*x, y) for x, y in zip(images, answers, strict=True)],
        truth=['dog'],
    )
    found = compare(first, second)
    scores = found.summary['scores']
    differences = {
        name: score['difference']
        for name, score in scores.items()
        if score['difference']
    }
    assert differences == {
        'caption repetition': 0.5,  # a
        'caption fragments': 0.5,  # b: a sentence of two words
        'caption unfinished': 0.5,  # b: no full stop
        'caption irrelevance': 0.5,  # b: no dog
        'caption any': 1,
        'poem unfinished': -0.5,  # b: the empty poem
        'poem irrelevance': -0.5,
        'poem any': -0.5,
    }
    # of the four ways to swap two images, two have a difference of 1
    assert scores['caption any']['p'] == 0.5
    assert [(pair.first.key, pair.distance) for pair in found.pairs] == [
        ('b, caption', 3),
        ('b, poem', 2),
        ('a, caption', 1),
    ]
    good = found.summary['good']
    assert (good['both'], good['only_first'], good['only_second']) == (1, 2, 1)
    stored = json.loads((second / 'summary.json').read_text())['scores']
    for group, kinds in stored.items():
        for kind, score in kinds.items():
            assert scores[f'{group} {kind}']['second'] == score['value']


def test_irrelevance_needs_a_truth(failures_folder):
    answers = [('a', 'caption', GOOD)]
    first = failures_folder('1', answers)
    second = failures_folder('2', answers)
    assert not [
        name
        for name in compare(first, second).summary['scores']
        if 'irrelevance' in name or 'poem' in name
    ]
    with pytest.raises(ValueError, match='a, caption is not the same in'):
        compare(first, failures_folder('3', answers, truth=['dog']))


def test_requests_met_are_compared(abilities_folder):
    first = abilities_folder(
        '1',
        [
            ('meme', '1', 'Yes'),
            ('meme', '2', 'no'),
            ('poem', '1', 'no'),
            ('poem', '2', None),
        ],
    )
    second = abilities_folder(
        '2',
        [
            ('meme', '1', 'Yes'),
            ('meme', '2', 'yes'),
            ('poem', '1', 'yes'),
            ('poem', '2', 'yes'),
        ],
        judge='k',
    )
    found = compare(first, second)
    scores = found.summary['scores']
    assert list(scores) == ['meme', 'poem', 'all']
    assert (scores['meme']['first'], scores['meme']['second']) == (0.5, 1)
    # images of two tasks with one name are two images: 1 of 3, and 3 of 3
    assert found.summary['images'] == 3
    assert scores['all']['difference'] == pytest.approx(2 / 3, abs=1e-6)
    # two images change: 2 of 8 ways to swap both, times 1 for the equal one
    assert scores['all']['p'] == 0.5
    assert found.summary['first']['without_truth'] == 1
    assert found.summary['settings'] == [
        dict(name='scoring.judge', first='j', second='k')
    ]
    assert [pair.first.key for pair in found.pairs] == [
        'meme, 2.jpg',
        'poem, 1.jpg',
    ]


def test_abilities_without_judgements_are_refused(abilities_folder):
    folder = abilities_folder('1', [('meme', '1', None)])
    with pytest.raises(ValueError, match=r'no judgements\.jsonl.*--judge-url'):
        read_results(folder)
    (folder / 'judgements.jsonl').write_text('{}\n')
    with pytest.raises(ValueError, match='a line that is no judgement'):
        read_results(folder)


def test_comparisons_are_printed_and_written(
    failures_folder, abilities_folder, tmp_path, capsys
):
    pairs = (
        (
            failures_folder('1', [('a', 'caption', GOOD)]),
            failures_folder('2', [('a', 'caption', REPEATED)]),
            'caption, repetition',
            'repetition: ',
        ),
        (
            abilities_folder('3', [('meme', '1', 'yes'), ('meme', '2', None)]),
            abilities_folder('4', [('meme', '1', 'no'), ('meme', '2', 'no')]),
            'all tasks, met',
            'the judge: no',
        ),
    )
    for number, (first, second, label, note) in enumerate(pairs):
        page = tmp_path / f'{number}.html'
        words = ('compare', first, second, '-o', page)
        assert cli.main([*map(str, words)]) == 0
        out = capsys.readouterr().out
        for text in (out, page.read_text()):
            assert label in text and note in text
            assert 'only in 1' in text
            assert 'truth:' not in text
    assert '1 without judgement, not compared' in out


def test_folders_of_different_protocols_are_refused(
    coverage_folder, failures_folder, capsys
):
    first = coverage_folder('1', [('a', 'yes')])
    second = failures_folder('2', [('a', 'caption', GOOD)])
    assert cli.main(['compare', str(first), str(second)]) == 1
    error = capsys.readouterr().err
    assert 'results of coverage and' in error and 'of failures' in error
    assert len(error.splitlines()) == 1
