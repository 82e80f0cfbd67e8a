# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""White space around texts is removed as a template removes it."""

import pytest

from minigpt4.prompts.frame import strip_text

TEXT = ' \n\t a b \n'


@pytest.mark.parametrize(
    ('strip', 'expected'),
    [
        (('', ''), TEXT),
        ((None, None), 'a b'),
        ((None, ''), 'a b \n'),
        (('', '\n'), ' \n\t a b '),
        ((' ', ' '), '\n\t a b \n'),
    ],
)
def test_each_side_is_stripped_by_itself(strip, expected):
    assert strip_text(TEXT, strip) == expected
