# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""HTML pages: content, escaping, which files are replaced."""

import pytest

from minigpt4.utils.html_page import HtmlPage, html_text

PAGE = HtmlPage('A & B', 'a report', style='p { color: red; }\n')


def test_a_page_has_its_title_style_and_content(tmp_path):
    page = tmp_path / 'page.html'
    PAGE.write(page, ['<p>a</p>', '<p>\ud83d</p>'])
    text = page.read_text()
    assert '<title>A &amp; B</title>' in text
    assert 'p { color: red; }\n</style>' in text
    assert text.endswith(
        '<body>\n<p>a</p>\n<p>\\ud83d</p>\n</body>\n</html>\n'
    )
    assert "default-src 'none'" in text


def test_a_failure_leaves_the_old_page(tmp_path):
    page = tmp_path / 'page.html'
    PAGE.write(page, ['old'])

    def parts():
        yield 'new'
        raise RuntimeError

    with pytest.raises(RuntimeError):
        PAGE.write(page, parts())
    assert 'old' in page.read_text()
    assert list(tmp_path.iterdir()) == [page]


def test_only_a_page_of_the_same_kind_is_replaced(tmp_path):
    page = tmp_path / 'page.html'
    PAGE.check(page)
    PAGE.write(page, [])
    PAGE.check(page)
    HtmlPage('Other', 'another').write(page, [])
    with pytest.raises(ValueError, match='exists and is not a report'):
        PAGE.check(page)
    with pytest.raises(ValueError, match='is a folder; give the name of a f'):
        PAGE.check(tmp_path)


def test_texts_are_escaped_and_cut():
    assert html_text('<b>&\n"') == '&lt;b&gt;&amp;\n&quot;'
    assert html_text('abc', 2) == 'ab…'
    assert html_text('ab', 2) == 'ab'
    assert html_text(5) == '5'
