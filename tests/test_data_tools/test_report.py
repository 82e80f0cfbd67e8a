# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
import json
import re
from html.parser import HTMLParser

import pytest

from minigpt4_cli.main import main

SCRIPT = '<script>alert(1)</script><img src=x onerror=alert(2)>'
ARABIC = 'قطة على سجادة'


class Page(HTMLParser):
    """The tags of a page, and the addresses that it loads."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.addresses += [v for k, v in attrs if k in ('src', 'href')]


@pytest.fixture
def page(records, tmp_path, capsys):
    content = [
        dict(image_id=1, caption=SCRIPT),
        dict(image_id=2, caption=ARABIC),
        dict(image_id=4, caption='a damaged image'),
        dict(id=SCRIPT, image=1),
    ]
    (records / 'filter_cap.json').write_text(json.dumps(content))
    out = tmp_path / 'out'
    main(['data', 'check', str(records), '--near', '0', '-o', str(out)])
    return (out / 'report.html').read_text('utf-8')


def test_texts_of_the_data_are_escaped(page):
    tags = [tag for tag, _ in Page(page).tags]
    assert 'script' not in tags
    assert not any('onerror' in attrs for _, attrs in Page(page).tags)
    assert '&lt;script&gt;alert(1)&lt;/script&gt;' in page


def test_the_page_loads_nothing_external(page):
    addresses = Page(page).addresses
    assert addresses
    assert all(a.startswith(('data:image/jpeg', '#')) for a in addresses)
    assert not re.search(r'url\(|@import', page)
    assert "default-src 'none'" in page


def test_links_to_problems_have_a_target(page):
    ids = {attrs.get('id') for _, attrs in Page(page).tags}
    links = [a[1:] for a in Page(page).addresses if a.startswith('#')]
    assert {'unreadable', 'invalid'} <= set(links) <= ids


def test_plots_samples_and_directions(page):
    tags = Page(page).tags
    assert sum(tag == 'svg' for tag, _ in tags) >= 7
    assert sum(tag == 'img' for tag, _ in tags) == 2
    assert ARABIC in page
    assert any(attrs.get('dir') == 'auto' for _, attrs in tags)
