# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The page and the table for a review without network."""

import csv
import json
import re

import pytest
from PIL import Image
from tests.review_ledger import final_text, make_ledger, step_numbers

from minigpt4.curation.ledger import Ledger, Result
from minigpt4.curation.review_export import write_review
from minigpt4.curation.review_queue import ReviewQueue

EVIL = '</script><script>alert(1)</script>'


def items_of(page):
    return [
        json.loads(text)
        for text in re.findall(r'class="item"[^>]*>(.*?)</script>', page)
    ]


def test_the_page_has_everything_in_one_file(tmp_path):
    with make_ledger(tmp_path) as ledger:
        Image.new('RGB', (64, 48)).save(tmp_path / 'image3.png')
        queue = ReviewQueue(ledger, step_numbers(ledger))
        path = tmp_path / 'review.html'
        (problem,) = write_review(queue, list(queue), path, 'Ann')
    assert problem.kind == 'changed' and 'image3.png' in str(problem)
    page = path.read_text('utf-8')
    first, second, *_ = items = items_of(page)
    assert len(items) == 6
    assert first['text'] == final_text(4)
    assert first['url'].startswith('data:image/jpeg;base64,')
    assert second['image'] == 3 and second['url'] is None
    assert second['problem'] == (
        'This image cannot be displayed: the file has changed since it was '
        'added.'
    )
    assert 'src="page.js"' not in page and 'href="page.css"' not in page
    assert '"reviewer": "Ann"' in page
    assert "default-src 'none'" in page


@pytest.mark.parametrize('suffix', ['.html', '.csv'])
def test_texts_end_no_element_and_names_need_not_be_unicode(tmp_path, suffix):
    with Ledger(tmp_path / 'ledger') as ledger:
        ledger.add_images([('a', '/\udcff.png', {})])
        step = ledger.add_step('a', 'rules', {})
        ledger.add_results(step, [Result(1, 'ok', EVIL, {})])
        path = tmp_path / f'review{suffix}'
        write_review(ReviewQueue(ledger, dict(rules=step)), [1], path)
    text = path.read_text('utf-8')
    if suffix == '.html':
        assert EVIL not in text
        assert items_of(text)[0]['text'] == EVIL
    else:
        assert EVIL in text and '\\udcff.png' in text


def test_a_table_says_which_images_to_doubt(tmp_path):
    with make_ledger(tmp_path) as ledger:
        (tmp_path / 'image3.png').unlink()
        queue = ReviewQueue(ledger, step_numbers(ledger))
        path = tmp_path / 'review.csv'
        (problem,) = write_review(queue, [1, 3], path)
    assert problem.kind == 'missing'
    with open(path, encoding='utf-8-sig', newline='') as file:
        first, second = csv.DictReader(file)
    assert first['flags'] == ''
    assert second['flags'].splitlines() == [
        'This image cannot be displayed: the file is missing.',
        'The text is short.',
    ]


def test_another_suffix_is_refused(tmp_path):
    with make_ledger(tmp_path, images=False) as ledger:
        queue = ReviewQueue(ledger, step_numbers(ledger))
        with pytest.raises(ValueError, match='neither .html nor .csv'):
            write_review(queue, [1], tmp_path / 'review.txt')
