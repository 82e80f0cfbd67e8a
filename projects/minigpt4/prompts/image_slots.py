# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The check that a text has one image slot for each image."""

from .frame import IMAGE_HERE


def check_image_slots(
    num_slots: int, num_images: int, where: str, note: str = ''
) -> None:
    """Raise if the numbers of image slots and images differ.

    Args:
        num_slots: Image slots that were found.
        num_images: Images that were given.
        where: What has the slots, as the message names it, such as
            ``'the prompt'``.
        note: Text after the two numbers, such as ``' (sample 7)'``.

    Raises:
        ValueError: The numbers differ.
    """
    if num_slots != num_images:
        raise ValueError(
            f'{num_slots} image slots in {where} but {num_images} images '
            f'were given{note}; write {IMAGE_HERE} once per image.'
        )
