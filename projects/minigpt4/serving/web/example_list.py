# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The examples of the web page: images and questions."""

import json
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parent / 'examples'
# what to expect of a model, by a part of its name
_HINTS = {
    'nano': 'The nano model knows only coloured shapes, as in the first four. '
    'The others show what MiniGPT-4 with Vicuna is for.',
    'small': 'The small model describes photographs: upload one. The other '
    'tasks show what MiniGPT-4 with a large LLM is for.',
}


def example_hint(name: str) -> str:
    """Return what to expect of the examples with a model; '' is no hint.

    Args:
        name: Name of the model.
    """
    return next((text for key, text in _HINTS.items() if key in name), '')


def load_examples(nano: bool) -> list[dict[str, Any]]:
    """Load the examples.

    Args:
        nano: Whether the list starts with scenes of the nano world.

    Returns:
        Dicts with ``title``, ``question`` and ``images`` (paths).
    """
    examples = json.loads((EXAMPLES / 'examples.json').read_text('utf-8'))
    return [
        {**card, 'images': [str(EXAMPLES / name) for name in card['images']]}
        for card in examples
        if nano or not card.get('nano')
    ]
