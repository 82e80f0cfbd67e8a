# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The language of a text, by the package lingua."""

import functools
from typing import Any


def language_confidences(text: str) -> dict[str, float]:
    """Return the confidence of each language, the likeliest first.

    Args:
        text: The text.

    Returns:
        Probabilities by the English name of the language. They add up to 1.

    Raises:
        ImportError: lingua is not installed.
    """
    text = text.encode(errors='replace').decode()  # without surrogates
    return {
        found.language.name.title(): found.value
        for found in _detector().compute_language_confidence_values(text)
    }


@functools.cache
def _detector() -> Any:
    """Return the detector of all 75 languages, which is loaded once."""
    try:
        from lingua import LanguageDetectorBuilder
    except ImportError as error:
        raise ImportError(
            'finding the language needs the package '
            "lingua-language-detector: pip install 'minigpt4[curate]', or "
            'set repair.guard.language=ignore and rules.skip=[language].'
        ) from error
    return LanguageDetectorBuilder.from_all_languages().build()
