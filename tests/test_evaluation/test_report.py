# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The page of an evaluation: scores, published figures, sample images."""

import json

import pytest
from PIL import Image

from minigpt4.evaluation.report import (
    SAMPLES,
    check_report,
    published_figures,
    read_result,
    write_report,
)
from minigpt4_cli import main as cli


@pytest.fixture
def folder(tmp_path):
    """Results of ``pope`` with two readable images and a hostile answer."""
    images, folder = tmp_path / 'images', tmp_path / 'pope-random'
    images.mkdir()
    folder.mkdir()
    for name in 'ab':
        Image.new('RGB', (32, 32), 'red').save(images / f'{name}.png')
    rows = [
        dict(file=f'{name}.png', prompt='Is it?', answer='<script>1</script>')
        for name in ('a', 'b', *['none'] * 8)
    ]
    rows.insert(0, dict(file='c.png', error='broken'))
    rows = [dict(row, number=number) for number, row in enumerate(rows)]
    (folder / 'answers.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    (folder / 'settings.json').write_text(
        json.dumps(dict(protocol='pope', model='nano <b>'))
    )
    (folder / 'summary.json').write_text(
        json.dumps(
            dict(
                protocol='pope',
                settings=dict(model='nano <b>'),
                answers=10,
                image_folder=str(images),
                scores=dict(
                    accuracy=dict(value=0.5, interval=[0.4, 0.6]),
                    f1=dict(value=None, interval=None),
                    words=dict(value=12.5, interval=[11, 14]),
                    cider=dict(value=1.5, interval=[0.9, 1.75]),
                ),
            )
        )
    )
    return folder


def test_scores_appear_with_published_figures(tmp_path, folder):
    page = tmp_path / 'report.html'
    write_report(page, [read_result(folder)], 'Title & more', ['gqa: none'])
    text = page.read_text()
    assert 'Title &amp; more' in text
    assert '<li>gqa: none</li>' in text
    assert '50.00 %' in text
    assert '40.00 % to 60.00 %' in text
    assert '77.83 % (13B; POPE, arXiv 2305.10355, table 3)' in text
    assert '68.30' not in text  # of pope-popular
    assert 'not defined' in text
    assert '12.500' in text
    assert '>1.500</td>' in text and ' to 1.750</td>' in text
    # each score has its own figures
    assert text.count('77.83 %') == text.count('78.86 %') == 1
    # a plot of 320 pixels, for accuracy alone: ours, and a published one
    assert text.count('<svg') == 1
    assert 'x1="128.0" x2="192.0"' in text
    assert 'class="ours" r="5" cx="160.0"' in text
    assert 'class="others" r="5" cx="249.1"' in text
    assert 'c.png' not in text  # of a row with an error
    assert text.count('data:image/jpeg') == 2
    assert text.count('<figure>') == SAMPLES
    assert '<script' not in text
    assert 'nano <b>' not in text


def test_a_folder_with_fewer_answers_than_counted_is_skipped(
    tmp_path, folder, capsys
):
    whole = result(tmp_path)
    answers = folder / 'answers.jsonl'
    lines = answers.read_text().splitlines()
    page = tmp_path / 'page.html'
    words = ['eval', 'report', str(folder), str(whole), '-o', str(page)]
    answers.write_text('\n'.join(lines[:-1]) + '\n')
    assert cli.main(words) == 1
    message = f'{folder} has 9 answers, and its summary.json counts 10'
    assert f'skipped: {message}' in capsys.readouterr().err
    assert message in page.read_text()
    answers.write_text('\n'.join(lines)[:-9])  # the last line is cut
    assert cli.main(words) == 1
    printed = capsys.readouterr()
    assert f'skipped: {answers}: line 11 is not JSON' in printed.err
    assert '(1 folder, 1 skipped)' in printed.out
    answers.write_text('\n'.join(lines))
    assert cli.main(words) == 0


def test_only_a_report_is_replaced(tmp_path, folder):
    page = tmp_path / 'report.html'
    write_report(page, [read_result(folder)], 'a')
    check_report(page)
    page.write_text('<title>My page</title>')
    with pytest.raises(ValueError, match='is not a report of an evaluation'):
        check_report(page)
    with pytest.raises(ValueError, match='is a folder; give the name of a f'):
        check_report(tmp_path)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (None, 'has no summary.json'),
        ('[]', 'is not the summary of an evaluation'),
        ('{"scores": 1}', 'is of other settings'),
        (
            '{"protocol": "pope", "settings": {}, "scores": 1}',
            'is not the scores of an evaluation',
        ),
    ],
)
def test_a_folder_without_scores_is_refused(tmp_path, content, message):
    (tmp_path / 'settings.json').write_text('{"protocol": "pope"}')
    if content is not None:
        (tmp_path / 'summary.json').write_text(content)
    with pytest.raises(ValueError, match=message):
        read_result(tmp_path)


def test_figures_of_other_recipes_are_not_shown():
    assert len(published_figures('chair-long', 'chair')) == 2
    assert len(published_figures('chair-short', 'chair')) == 3
    assert published_figures('mine', 'chair') == []
    assert all(
        0 < figure.value < 200 and figure.source
        for name in ('aokvqa', 'gqa')
        for figure in published_figures(name, name)
    )


def result(tmp_path, name='one'):
    """A complete result folder of ``chair`` with one caption."""
    folder = tmp_path / name
    folder.mkdir()
    settings = dict(protocol='chair', truth='abc')
    scores = dict(chair_i=dict(value=0.25, interval=[0.125, 0.5]))
    summary = dict(protocol='chair', settings=dict(truth='abc'), scores=scores)
    summary['captions'] = 1
    (folder / 'settings.json').write_text(json.dumps(settings))
    (folder / 'summary.json').write_text(json.dumps(summary))
    (folder / 'captions.jsonl').write_text('{"image_id": 1, "caption": "a"}')
    return folder


@pytest.mark.parametrize(
    ('file', 'content', 'message'),
    [
        (
            'settings.json',
            '[]',
            'is not the settings of an evaluation (it is a',
        ),
        ('settings.json', '{', 'is not JSON (line 1, column 2'),
        (
            'settings.json',
            '',
            'is not JSON (it is empty); expected the settin',
        ),
        ('settings.json', '{}', 'of an evaluation (it has no protocol)'),
        (
            'settings.json',
            '{"protocol": 1}',
            'evaluation (it has no protocol)',
        ),
        ('settings.json', '[' * 100_000, 'it is nested too deeply'),
        (
            'settings.json',
            '{"protocol": "pope"}',
            'summary.json is of other settings than settings.json',
        ),
        (
            'summary.json',
            '',
            'is not JSON (it is empty); expected the summary',
        ),
        ('summary.json', '[' * 100_000, 'it is nested too deeply'),
        ('captions.jsonl', '[1]', 'line 1 is no result of the protocol'),
        ('captions.jsonl', '\n{"a"', 'line 2 is not JSON'),
    ],
)
def test_a_damaged_folder_is_skipped_and_counted(
    tmp_path, capsys, file, content, message
):
    good, bad = result(tmp_path), result(tmp_path, 'two')
    (bad / file).write_text(content)
    page = tmp_path / 'report.html'
    words = ['eval', 'report', str(bad), str(good), '-o', str(page)]
    assert cli.main(words) == 1
    printed = capsys.readouterr()
    assert '(1 folder, 1 skipped)' in printed.out
    assert str(bad) in printed.err and message in printed.err
    text = page.read_text()
    assert '<h2>one</h2>' in text and '<h2>two</h2>' not in text
    assert '25.00 %' in text and '<li>' in text and 'two' in text
    # nothing remains to report
    page.unlink()
    assert cli.main(['eval', 'report', str(bad), '-o', str(page)]) == 1
    assert message in capsys.readouterr().err
    assert cli.main(['eval', 'report', *[str(bad)] * 2, '-o', str(page)]) == 1
    assert 'none of the 2 folders has results' in capsys.readouterr().err
    assert not page.exists()


def test_all_folders_are_reported(tmp_path, capsys):
    page = tmp_path / 'report.html'
    folders = [str(result(tmp_path, name)) for name in ('one', 'two')]
    assert cli.main(['eval', 'report', *folders, '-o', str(page)]) == 0
    assert '(2 folders)' in capsys.readouterr().out


@pytest.mark.parametrize(
    'scores',
    [
        dict(a=dict(value=1)),
        dict(a=dict(value=1, interval=[1])),
        dict(a=dict(value='1', interval=[1, 2])),
    ],
)
def test_scores_without_interval_are_refused(tmp_path, scores):
    folder = result(tmp_path)
    summary = json.loads((folder / 'summary.json').read_text())
    summary['scores'] = scores
    (folder / 'summary.json').write_text(json.dumps(summary))
    with pytest.raises(ValueError, match='is not the scores of an evaluation'):
        read_result(folder)


def test_a_score_without_interval_is_shown(tmp_path):
    """No resample of few images may define it."""
    folder, page = result(tmp_path), tmp_path / 'report.html'
    summary = json.loads((folder / 'summary.json').read_text())
    summary['scores']['chair_i'] = dict(value=0.25, interval=None)
    (folder / 'summary.json').write_text(json.dumps(summary))
    write_report(page, [read_result(folder)], 'Evaluation')
    assert '25.00 %' in page.read_text()


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('link', 'link is a symbolic link to nowhere, which does not exist'),
        ('/dev/full', '/dev/full is a device or another special file'),
        ('/dev/full/a.html', '/dev/full is a file, but a folder is expected'),
        ('/proc/a.html', '/proc/a.html cannot be written: no file can be'),
    ],
)
def test_the_page_is_checked_first(tmp_path, capsys, name, message):
    (tmp_path / 'link').symlink_to('nowhere')
    words = ['eval', 'report', 'not_read', '-o', str(tmp_path / name)]
    assert cli.main(words) == 1
    assert message in capsys.readouterr().err
