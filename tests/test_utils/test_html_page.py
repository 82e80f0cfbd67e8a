# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""HTML pages from a template: content, escaping, what is replaced."""

import pytest

from minigpt4.utils.html_page import (
    check_html_page,
    html_text,
    write_html_page,
)


@pytest.fixture
def template(tmp_path):
    path = tmp_path / 'template.html'
    path.write_text('<title>Kind</title><body>\n<!-- content -->\n</body>')
    return path


def test_the_content_is_put_into_the_template(tmp_path, template):
    page = tmp_path / 'page.html'
    write_html_page(page, template, ['<p>a</p>', '<p>\ud83d</p>'])
    text = page.read_text()
    assert '<p>a</p>\n<p>\\ud83d</p>\n' in text
    assert text.endswith('</body>')


def test_a_failure_leaves_the_old_page(tmp_path, template):
    page = tmp_path / 'page.html'
    write_html_page(page, template, ['old'])

    def parts():
        yield 'new'
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_html_page(page, template, parts())
    assert 'old' in page.read_text()
    assert sorted(tmp_path.iterdir()) == [page, template]


def test_only_a_page_of_the_template_is_replaced(tmp_path, template):
    page = tmp_path / 'page.html'
    check_html_page(page, template, 'a report')
    write_html_page(page, template, [])
    check_html_page(page, template, 'a report')
    page.write_text('<title>Other</title>')
    with pytest.raises(ValueError, match='exists and is not a report'):
        check_html_page(page, template, 'a report')
    with pytest.raises(ValueError, match='is a folder; give the name of a f'):
        check_html_page(tmp_path, template, 'a report')


def test_texts_are_escaped_and_cut():
    assert html_text('<b>&\n"') == '&lt;b&gt;&amp;\n&quot;'
    assert html_text('abc', 2) == 'ab…'
    assert html_text('ab', 2) == 'ab'
    assert html_text(5) == '5'
