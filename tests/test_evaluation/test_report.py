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
    (folder / 'answers.jsonl').write_text('\n'.join(map(json.dumps, rows)))
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


def test_only_a_report_is_replaced(tmp_path, folder):
    page = tmp_path / 'report.html'
    write_report(page, [read_result(folder)], 'a')
    check_report(page)
    page.write_text('<title>My page</title>')
    with pytest.raises(ValueError, match='is not a report of an evaluation'):
        check_report(page)
    with pytest.raises(ValueError, match='is not a report of an evaluation'):
        check_report(tmp_path)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (None, 'has no summary.json'),
        ('[]', 'is not the scores of an evaluation'),
        ('{"scores": 1}', 'is not the scores of an evaluation'),
    ],
)
def test_a_folder_without_scores_is_refused(tmp_path, content, message):
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
