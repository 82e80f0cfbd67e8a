# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Templates are found by name."""

import pytest

from minigpt4.prompts import PromptTemplate, get_template


def test_unknown_template_is_refused_with_the_known_names():
    with pytest.raises(
        ValueError, match="unknown prompt template 'vicuna'.*vicuna_v0"
    ):
        get_template('vicuna')


def test_template_object_is_accepted_instead_of_a_name():
    template = PromptTemplate('mine', 'Q: ', 'Q: ', ' A: ', '\n', ('\n',))
    assert get_template(template) is template


def test_system_message_is_the_official_one():
    assert get_template('vicuna_v0').system == (
        'Give the following image: <Img>ImageContent</Img>. You will be able '
        'to see the image once I provide it to you. Please answer my '
        'questions.###'
    )
