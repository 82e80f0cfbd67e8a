# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The gallery: a page that is complete, safe, and searchable."""

import json
import re
from pathlib import Path

import pytest

from minigpt4.captioning.gallery import check_gallery, write_gallery
from minigpt4.captioning.results import CaptionResult

HOW_MANY = 'How many shapes are there?'


def items(page):
    data = re.search(r'id="items">(.*?)</script>', page, re.DOTALL)[1]
    return json.loads(data)


def test_the_page_has_thumbnails_and_no_tags_of_names_or_answers(
    folder, scenes
):
    evil = 'images/<img src=x onerror=alert(1)>.png'
    scenes[1][0].resize((640, 480)).convert('RGBA').save(evil)
    Path('images/text.png').write_text('<b>')
    results = [
        CaptionResult(evil, HOW_MANY, 'one'),
        CaptionResult(evil, '</script>', '</script>'),
        CaptionResult('images/0.png', HOW_MANY, 'two'),
        CaptionResult('images/text.png', HOW_MANY, error='cannot be read'),
        CaptionResult('gone\x1b.png', HOW_MANY, error='gone\x1b.png'),
    ]
    write_gallery(results, Path('out.html'), workers=2)
    page = Path('out.html').read_text('utf-8')
    assert page.count('<script') == 2 and page.count('</script>') == 2
    assert '<img' not in page and not re.search('(src|href)="?http', page)
    assert '\x1b' not in page
    first, second, text, gone = items(page)
    assert first['image'] == evil
    assert [a[0] for a in first['answers']] == [HOW_MANY, '</script>']
    assert first['thumbnail'].startswith('data:image/jpeg;base64,')
    assert len(first['thumbnail']) < 20_000
    assert second['answers'] == [[HOW_MANY, 'two', None]]
    assert text['thumbnail'] is None and gone['thumbnail'] is None
    assert text['answers'] == [[HOW_MANY, None, 'cannot be read']]
    check_gallery(Path('out.html'))


@pytest.mark.parametrize('page', ['notes.html', 'images', 'notes.html/x.html'])
def test_another_file_is_not_replaced(folder, page):
    Path('notes.html').write_text('<html>mine</html>')
    with pytest.raises((ValueError, OSError)):
        check_gallery(Path(page))
    assert Path('notes.html').read_text() == '<html>mine</html>'


def test_a_failure_leaves_no_file(folder):
    def broken():
        yield CaptionResult('images/0.png', 'x', 'y')
        raise RuntimeError('stop')

    with pytest.raises(RuntimeError):
        write_gallery(broken(), Path('page.html'))
    assert not list(Path().glob('*page*'))


@pytest.mark.slow
def test_the_page_in_a_browser(chromium, folder):
    from playwright.sync_api import expect

    evil = '<img src=x onerror=document.title=1>'
    results = [
        CaptionResult(f'images/{i % 3}.png#{i}', HOW_MANY, f'{evil} number{i}')
        for i in range(119)
    ]
    results.append(CaptionResult('images/0.png', HOW_MANY, None, 'unreadable'))
    write_gallery(results, Path('page.html'))
    page = chromium.new_page()
    errors: list = []
    page.on('pageerror', lambda error: errors.append(error))
    page.goto(Path('page.html').absolute().as_uri())
    cards = page.locator('article')
    expect(page.locator('#count')).to_have_text('120 of 120')
    assert cards.count() == 50, 'cards are made before they are needed'
    expect(cards.first).to_contain_text(f'{evil} number0')
    cards.last.scroll_into_view_if_needed()
    expect(cards).not_to_have_count(50)
    page.fill('#search', 'HOW number77')
    expect(cards).to_have_count(1)
    page.fill('#search', '')
    page.check('#failed')
    expect(cards).to_have_count(1)
    assert cards.locator('img').evaluate('i => i.naturalWidth') == 64
    assert page.title() == 'MiniGPT-4 captions' and not errors
    page.close()


def test_reference_captions_are_shown(folder):
    results = [
        CaptionResult(f'images/{i}.png', HOW_MANY, 'two') for i in range(2)
    ]
    references = {'1': ['a <b>', 'another\x1b'], '7': ['of no image']}
    write_gallery(results, Path('out.html'), references=references)
    page = Path('out.html').read_text('utf-8')
    first, second = items(page)
    assert 'references' not in first
    assert second['references'] == ['a <b>', 'another\\x1b']
    assert '<b>' not in page and 'of no image' not in page
