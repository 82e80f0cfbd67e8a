# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""The examples of the web page: images and questions."""

import json
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parent / 'examples'


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
