# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""What lies in a Hugging Face folder beside the weights."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

_WEIGHTS = ('.safetensors', '.bin', '.pth', '.pt', '.h5', '.msgpack')


def copy_small_files(source: Path, target: Path) -> None:
    """Copy all of an LLM's folder but its weights to a new folder."""
    target.mkdir()
    for file in sorted(source.iterdir()):
        weights = file.suffix in _WEIGHTS or file.name.endswith('.index.json')
        if file.is_file() and not weights:
            shutil.copy(file, target / file.name)


def read_json(path: Path) -> dict:
    """An object in a JSON file.

    Raises:
        ValueError: There is none.
    """
    try:
        data = json.loads(path.read_text('utf-8'))
    except ValueError as error:
        raise ValueError(
            f'{path} is no JSON ({error}); download it again.'
        ) from error
    if not isinstance(data, dict):
        raise ValueError(
            f'{path} holds a {type(data).__name__}; expected an object.'
        )
    return data


def write_json(path: Path, data: Mapping) -> None:
    """Write an object as JSON."""
    path.write_text(json.dumps(data, indent=1) + '\n', encoding='utf-8')
