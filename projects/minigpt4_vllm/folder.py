# Copyright (c) The MiniGPT-4 plugin authors. Licensed under Apache-2.0.
"""What an exported folder states that no class of transformers reads."""

import json
from pathlib import Path
from typing import Any, NamedTuple

EXTRA_FILE = 'minigpt4.json'  # minigpt4.convert.folder_extras writes it
MODEL_TYPES = ('blip-2', 'fast_vlm')


class FolderSettings(NamedTuple):
    """Settings of an exported folder.

    Attributes:
        stop: Stop strings, which end an answer.
        is_greedy: Whether answers are greedy unless a request says otherwise.
        suppressed: Ids of tokens that are never generated: the learned prefix
            of an image.
    """

    stop: tuple[str, ...]
    is_greedy: bool
    suppressed: tuple[int, ...]


def is_exported(folder: 'str | Path | None') -> bool:
    """Return whether ``minigpt4 convert --to huggingface`` wrote a folder.

    Args:
        folder: A folder, or the name of a repository, which is none.
    """
    return bool(folder) and (Path(str(folder)) / EXTRA_FILE).is_file()


def read_settings(folder: 'str | Path') -> FolderSettings:
    """Read the settings of an exported folder.

    Args:
        folder: A folder for which :func:`is_exported` is true.

    Raises:
        ValueError: A file is not what the export writes today.
    """
    extra = _read(Path(folder) / EXTRA_FILE)
    stop = extra.get('stop')
    if not (isinstance(stop, list) and all(isinstance(x, str) for x in stop)):
        raise ValueError(
            f'{Path(folder) / EXTRA_FILE} has no list "stop" of stop strings; '
            'an older version wrote the folder: write it again with '
            '"minigpt4 convert --to huggingface".'
        )
    generation = _read(Path(folder) / 'generation_config.json')
    return FolderSettings(
        tuple(stop),
        not generation.get('do_sample', False),
        tuple(generation.get('suppress_tokens') or ()),
    )


def image_tokens(config: dict[str, Any]) -> tuple[int, int]:
    """Return how an image slot is written in a prompt.

    The chat template writes one image token per image, after those of the
    learned prefix if the model has one.

    Args:
        config: ``config.json`` of an exported folder.

    Returns:
        The id of the image token, and by how many of them each is replaced.

    Raises:
        ValueError: It is the config of another model.
    """
    name = config.get('model_type')
    if name not in MODEL_TYPES:
        raise ValueError(
            f'config.json has model_type {name!r}; expected one of '
            f'{", ".join(MODEL_TYPES)}.'
        )
    key = 'num_query_tokens' if name == 'blip-2' else 'image_seq_length'
    return config['image_token_index'], config[key]


def _read(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: The file is missing, or has something else.
    """
    try:
        data = json.loads(path.read_text('utf-8'))
    except (OSError, ValueError) as error:
        raise ValueError(
            f'{path} cannot be read ({error}); write the folder again with '
            '"minigpt4 convert --to huggingface".'
        ) from error
    if not isinstance(data, dict):
        raise ValueError(
            f'{path} has no JSON object; write the folder again with '
            '"minigpt4 convert --to huggingface".'
        )
    return data
