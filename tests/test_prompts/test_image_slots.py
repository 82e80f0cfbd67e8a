# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The check that a text has one image slot for each image."""

import pytest

from minigpt4.prompts.image_slots import check_image_slots


def test_equal_numbers_are_accepted():
    check_image_slots(0, 0, 'the prompt')
    check_image_slots(2, 2, 'the prompt')


def test_different_numbers_are_refused():
    with pytest.raises(ValueError) as caught:
        check_image_slots(1, 2, 'the prompt', ' (sample 7)')
    assert str(caught.value) == (
        '1 image slots in the prompt but 2 images were given (sample 7); '
        'write <ImageHere> once per image.'
    )
