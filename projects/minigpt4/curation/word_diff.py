# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Which words differ between two texts, for display."""

import re
from difflib import SequenceMatcher

MAX_WORDS = 2000  # of a text; SequenceMatcher takes quadratic time
_PART = re.compile(r'\s+|[^\W_]+|[\W_]')


def word_diff(before: str, after: str) -> list[tuple[str, str]]:
    """Compare two texts word by word.

    Args:
        before: The old text.
        after: The new one.

    Returns:
        ``(kind, text)`` in reading order; the kind is ``'equal'``,
        ``'delete'`` (only in the old text) or ``'insert'`` (only in the new
        one). The texts that are not deleted make up the new text, and those
        that are not inserted the old one.
    """
    old, new = _PART.findall(before), _PART.findall(after)
    if len(old) > MAX_WORDS or len(new) > MAX_WORDS:
        start = _common(old, new)
        end = _common(old[start:][::-1], new[start:][::-1])
        operations = [
            ('equal', 0, start, 0, start),
            ('replace', start, len(old) - end, start, len(new) - end),
            ('equal', len(old) - end, len(old), len(new) - end, len(new)),
        ]
    else:
        matcher = SequenceMatcher(None, old, new, autojunk=False)
        operations = list(matcher.get_opcodes())
    parts: list[tuple[str, str]] = []
    for kind, old_start, old_end, new_start, new_end in operations:
        removed = ''.join(old[old_start:old_end])
        added = ''.join(new[new_start:new_end])
        if kind == 'equal':
            parts.append(('equal', added))
        else:
            parts += [('delete', removed), ('insert', added)]
    return [part for part in parts if part[1]]


def _common(first: list[str], second: list[str]) -> int:
    """How many of the first words of two texts are equal."""
    number = 0
    for one, other in zip(first, second):
        if one != other:
            break
        number += 1
    return number
