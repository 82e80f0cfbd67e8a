# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Languages are told apart; the missing package is named."""

import sys

import pytest

from minigpt4.evaluation import languages
from minigpt4.evaluation.languages import language_confidences


def test_the_likeliest_language_is_first():
    pytest.importorskip('lingua')
    for text, name in (
        ('The image shows a man on a wooden bench in a park.', 'English'),
        ('Das Bild zeigt einen Mann auf einer grünen Bank.', 'German'),
    ):
        found = language_confidences(text)
        assert next(iter(found)) == name and found[name] > 0.2
        assert sum(found.values()) == pytest.approx(1)


@pytest.mark.parametrize('text', ['', '12 - 7', '…', '\ud800'])
def test_a_text_without_a_language(text):
    pytest.importorskip('lingua')
    assert not any(language_confidences(text).values())


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, 'lingua', None)
    languages._detector.cache_clear()
    with pytest.raises(ImportError, match='minigpt4.curate.*language=ignore'):
        language_confidences('A dog runs.')
