# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Objects that a text names and that are not known to be in the image.

What is known is in the details of the image: ``objects``, a list of names
(e.g. of a detector or of COCO's annotations), and ``captions``, a list of
texts. Only COCO's 80 classes are found
(:mod:`~minigpt4.evaluation.object_words`).
"""

from collections.abc import Iterable, Mapping
from typing import Any

from ..evaluation.object_words import coco_words


def invented_objects(text: str, details: Mapping[str, Any]) -> list[str]:
    """The classes that a text names, without those known for the image.

    Args:
        text: The text.
        details: Of the image.

    Returns:
        Each class once, in the order of the text; nothing where neither
        objects nor captions of the image are known.
    """
    known = [*_texts(details.get('objects')), *_texts(details.get('captions'))]
    if not known:
        return []
    words = coco_words()
    present = {name for text_ in known for name in words.find(text_)}
    return list(
        dict.fromkeys(name for name in words.find(text) if name not in present)
    )


def object_flags(
    text: str, details: Mapping[str, Any]
) -> list[dict[str, str]]:
    """The flags of a text for its invented objects."""
    given = [
        name for name in ('objects', 'captions') if _texts(details.get(name))
    ]
    return [
        dict(
            reason='object',
            text=f'The text names "{name}", which the '
            f'{" and ".join(given)} of the image do not have.',
        )
        for name in invented_objects(text, details)
    ]


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, Iterable) or isinstance(value, Mapping):
        return []
    return [item for item in value if isinstance(item, str)]
