# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Images in a line: paths, file addresses, web addresses."""

import pytest

from minigpt4.terminal.typed_images import parse_words, split_line


@pytest.mark.parametrize(
    'line, images, question',
    [
        ("'{p}'", 1, ''),
        ('"{p}"', 1, ''),
        ('{e}', 1, ''),
        ('{u}', 1, ''),
        ("'{p}' What's in it?", 1, "What's in it?"),
        ("What's in {e}", 1, "What's in"),
        ('{e} {u} Compare  them.', 2, 'Compare  them.'),
        ("Isn't it 'nice'?", 0, "Isn't it 'nice'?"),
        ('What is scene.png?', 0, 'What is scene.png?'),
        ('See https://a.org/b.html please', 0, None),
        ('https://a.org/b?size=2 Describe.', 1, 'Describe.'),
        ('Is https://a.org/b.JPG?size=2 red?', 1, 'Is red?'),
    ],
)
def test_images_are_split_from_the_question(image, line, images, question):
    line = line.format(
        p=image,
        e=str(image).replace(' ', '\\ '),
        u=image.as_uri(),
    )
    found, rest = split_line(line)
    assert len(found) == images
    assert ' '.join(rest.split()) == ' '.join(
        (line if question is None else question).split()
    )
    for path in found:
        assert path == str(image) or path.startswith('https://')


def test_words_are_unquoted_paths(image, monkeypatch):
    monkeypatch.setenv('HOME', str(image.parent))
    assert parse_words('a\\ b.png "c d.png" \'e f.png\' ~/g.png') == [
        'a b.png',
        'c d.png',
        'e f.png',
        f'{image.parent}/g.png',
    ]
