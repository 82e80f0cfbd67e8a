# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Name the ids of captions that another file does not have."""

from collections.abc import Iterable, Sequence

from ..utils.errors import short_json

NAMED_IDS = 3


def name_unknown(
    unknown: Sequence[str], known: Iterable[str], file: object = 'it'
) -> str:
    """Name the first unknown ids and the form of a known one.

    Args:
        unknown: Ids that a file does not have.
        known: Ids that it has.
        file: The file; a pronoun if the sentence has named it.

    Returns:
        A text in brackets that begins with a space; empty if no id is
        unknown.
    """
    if not unknown:
        return ''
    first = list(dict.fromkeys(unknown))[:NAMED_IDS]
    text = f'such as {", ".join(map(short_json, first))}'
    for example in known:
        text += f'; {file} has ids such as {short_json(example)}'
        break
    return f' ({text})'
