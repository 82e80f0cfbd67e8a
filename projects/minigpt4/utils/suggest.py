# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""Suggest the known word that a user may have meant."""

import difflib
from collections.abc import Iterable


def suggest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return the known word that is most similar, or ``''``.

    Args:
        word: An unknown word.
        known: The words that exist.
        cutoff: Minimum similarity, from 0 (none) to 1 (equal).
    """
    close = difflib.get_close_matches(word, list(known), 1, cutoff)
    return close[0] if close else ''
