# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Ids of images, questions and other records: one rule for all files.

Files that refer to each other write one id in different ways: ``139``,
``"139"``, and ``139.0`` where pandas has written a column with gaps. They are
equal here; every other text is compared as it is, so that ``"0139"`` is
another id. Names of files that stand for the id of an image, such as
``000000000139.jpg``, are found by :mod:`minigpt4.images.image_ids`.
"""

from typing import Any

from .errors import short_json

# a float above it may stand for several whole numbers
_LARGEST_FLOAT = 2**53


def checked_id(value: Any) -> 'int | str':
    """An id; a float without fraction is returned as a whole number.

    Args:
        value: A value of JSON.

    Returns:
        The id. Compare ids by :func:`id_key`, not as they are.

    Raises:
        ValueError: It is no id. The message follows the name of the field:
            ``is true; expected a text or a whole number``.
    """
    if isinstance(value, float) and abs(value) <= _LARGEST_FLOAT:
        value = int(value) if value.is_integer() else value
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(
            f'is {short_json(value)}; expected a text or a whole number'
        )
    if not str(value).strip():
        raise ValueError('is empty; expected a text or a whole number')
    return value


def id_key(value: Any) -> str:
    """The text by which an id is compared and found in other files.

    Args:
        value: A value of JSON.

    Raises:
        ValueError: As :func:`checked_id`.
    """
    return str(checked_id(value))


def id_key_or_none(value: Any) -> str | None:
    """As :func:`id_key`; None for a value that is no id."""
    try:
        return id_key(value)
    except ValueError:
        return None
